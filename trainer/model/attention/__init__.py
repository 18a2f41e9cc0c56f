"""How the model attends: which implementation, why, and one of our own for texts that share a row."""
