"""Checkpoints: what they hold, how they are published, and which one a run resumes from."""
