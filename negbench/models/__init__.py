"""Encoders: backbones, projectors, BatchNorm, and their files."""
