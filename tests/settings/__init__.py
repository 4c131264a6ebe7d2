"""Tests of `negbench/settings/`."""
