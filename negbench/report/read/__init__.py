"""What a report reads: runs, benches and tunings, compared row by row."""
