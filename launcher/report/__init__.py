"""The HTML pages of runs and sweeps."""
