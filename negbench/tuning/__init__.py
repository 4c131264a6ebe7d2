"""Choosing settings: an equal number of random trials for each method, on held-out training images."""
