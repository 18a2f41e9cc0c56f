"""A run directory as one page of curves."""
