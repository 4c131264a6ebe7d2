"""The commands, one file each; torch is imported only by those that compute."""
