"""Tests of `negbench/data/`."""
