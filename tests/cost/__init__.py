"""Tests of `negbench/cost/`."""
