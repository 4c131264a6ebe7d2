"""Findings and cautions, in sentences."""
