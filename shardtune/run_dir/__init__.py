"""The run directory: its files, and what each of them says."""
