"""Tests of `negbench/runtime/`."""
