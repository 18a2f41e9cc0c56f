"""This process's rank, read from the environment that torchrun, deepspeed or a test sets, before ranks connect."""

import os


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def global_rank() -> int:
    """This process's number among all."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def ranks_here() -> int:
    """Number of processes on this machine, as torchrun reports it; other launchers start ranks on one machine only."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
