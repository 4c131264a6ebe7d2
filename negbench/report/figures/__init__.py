"""Figures, drawn when the page is written."""
