"""A run in Weights & Biases: live, and uploaded later from metrics.jsonl."""
