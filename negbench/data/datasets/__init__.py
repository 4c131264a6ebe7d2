"""Data sets, one file each: facts and a function `load`."""
