"""Tests of `negbench/evaluate/`."""
