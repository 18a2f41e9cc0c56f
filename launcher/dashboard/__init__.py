"""A live page over many runs, served on this machine only."""
