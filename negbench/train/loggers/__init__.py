"""Where the rows of a run go while it trains."""
