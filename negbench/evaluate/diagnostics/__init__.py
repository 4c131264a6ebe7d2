"""Diagnostics of negatives and of the representation."""
