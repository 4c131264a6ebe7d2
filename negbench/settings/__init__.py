"""What a run can be told. Imports no torch."""
