"""Encoders as files: those of others, read; ours, written as others load them."""
