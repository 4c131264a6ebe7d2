"""Tests of `negbench/report/`."""
