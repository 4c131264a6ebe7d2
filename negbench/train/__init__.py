"""One run: set up, trained, evaluated, recorded."""
