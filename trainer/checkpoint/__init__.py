"""Checkpoints: what is in one, how it is published, which one a run resumes from."""
