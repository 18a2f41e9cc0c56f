"""Models between a base and a tuned one: what the base has of each tensor, and the folder of such a model."""
