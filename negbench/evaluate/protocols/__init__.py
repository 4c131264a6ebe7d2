"""Protocols of evaluation, one file each: facts and a function `evaluate`."""
