"""Tests of `negbench/records/`."""
