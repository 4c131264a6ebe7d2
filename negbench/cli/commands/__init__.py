"""The commands of `negbench`, a file each."""
