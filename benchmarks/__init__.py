"""Measurements, side by side with others. Each is one command: `python -m benchmarks.NAME`."""
