"""The settings of a run, a study and a cluster. Imports no torch."""
