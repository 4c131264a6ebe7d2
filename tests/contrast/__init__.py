"""Tests of `negbench/contrast/`."""
