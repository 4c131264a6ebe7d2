"""Tables for a reader, and the numbers behind them."""
