"""This process's place among all, known before they are connected: as torchrun, deepspeed or a test says it."""

import os


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def global_rank() -> int:
    """This process's number among all."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def ranks_here() -> int:
    """How many of them are on this machine, as torchrun says it; others start ranks on one machine alone."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
