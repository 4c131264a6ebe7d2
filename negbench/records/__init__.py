"""What runs leave on disk. Imports no torch, but for `checkpoint`."""
