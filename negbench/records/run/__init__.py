"""What is in a run's folder, a file each. Imports no torch, but for `checkpoint`."""
