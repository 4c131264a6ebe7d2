"""Tests of `negbench/cli/`."""
