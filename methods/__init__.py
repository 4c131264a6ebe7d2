"""One file, one answer to "where do the negatives come from?"."""
