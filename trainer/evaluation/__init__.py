"""The metrics of whole splits, their intervals, and what each row adds to them."""
