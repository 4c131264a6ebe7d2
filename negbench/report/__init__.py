"""From run records to tables, figures and a page. Reads run folders only, and imports no torch."""
