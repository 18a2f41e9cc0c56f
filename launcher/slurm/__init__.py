"""Slurm: job scripts, allocations, submission, and the end of a job."""
