"""Runs as jobs: of Slurm, or in the background of this machine."""
