"""Tests of `negbench/train/`."""
