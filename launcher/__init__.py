"""From a recipe to running processes: on this machine, on a Slurm cluster, once or as a sweep. Imports no torch."""
