"""Measurements that are no part of negbench itself; each file says how it is run."""
