"""Descriptions of negatives and of the representation."""
