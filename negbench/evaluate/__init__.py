"""Evaluation of a trained encoder, or of one in a file."""
