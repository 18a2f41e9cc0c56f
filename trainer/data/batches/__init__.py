"""Encoded examples -> the global batch of a step -> each rank's micro-batches."""
