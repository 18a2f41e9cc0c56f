"""Slurm: job scripts, allocations, submission, and what a job does when it ends."""
