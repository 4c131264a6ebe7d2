"""Tests of `negbench/launch/`."""
