"""Learning curves: fits, words and drawings."""
