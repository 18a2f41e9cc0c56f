"""What the average of the weights is called, here without torch."""

AVERAGE = "average"
"""The optimizer state that holds it."""
RAW = "raw_weights"
"""What a checkpoint calls the weights that are trained, where its weights are the average."""
