"""What a step costs (`bench`), and what a run will cost (`plan`)."""
