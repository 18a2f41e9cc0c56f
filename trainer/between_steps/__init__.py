"""What happens between two steps: evaluations, checkpoints, guards against bad steps."""
