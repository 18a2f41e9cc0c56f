"""What happens between two steps: a list of callbacks (guard, reports, evaluation, checkpoints), in order."""
