"""A report's files: the page, its tables and its figures."""
