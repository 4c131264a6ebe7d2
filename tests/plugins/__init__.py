"""Extension points, by a package that adds one of each."""
