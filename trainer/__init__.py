"""What runs on every rank, from the recipe to the exported model."""
