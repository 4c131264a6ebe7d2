"""Tests of `negbench/models/`."""
