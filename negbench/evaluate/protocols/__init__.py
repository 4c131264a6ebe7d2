"""Protocols of evaluation, one file each, and what they share."""
