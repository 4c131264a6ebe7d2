"""Many runs: those of a study that are missing, and trials that choose settings."""
