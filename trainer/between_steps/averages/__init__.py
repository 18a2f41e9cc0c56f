"""Averages of the weights: over the steps, and of the last checkpoints."""
