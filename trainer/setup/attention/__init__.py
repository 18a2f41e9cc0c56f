"""What attention needs of the batches, measured on the model."""
