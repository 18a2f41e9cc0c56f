"""Memory that the ranks of one machine have together: CPU ranks read each other's numbers instead of sending them.

It has no name that could outlive the ranks, however they end (memfd_create(2), opened by way of /proc).
"""

import os
import uuid
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from shardtune.trainer.distributed.ranks import Ranks


class _Offer(NamedTuple):
    """Where a rank's memory is, and what is written at its beginning, for another machine has the same paths."""

    path: str
    num_bytes: int
    token: bytes


def common_memory(num_bytes: int, ranks: Ranks) -> list[Tensor] | None:
    """Collective: of each rank so many zeros that all ranks see, uint8 of shape (num_bytes,); their numbers may differ.

    None where a rank cannot see the others', for they are on several machines or in several containers, or where there
    is no room.
    """
    num_bytes = max(num_bytes, 16)
    token = uuid.uuid4().bytes
    descriptor = -1
    offer = None
    try:
        descriptor = os.memfd_create("shardtune")
        os.posix_fallocate(descriptor, 0, num_bytes)  # or memory that is short would be found out by a signal
        os.pwrite(descriptor, token, 0)
        offer = _Offer(f"/proc/{os.getpid()}/fd/{descriptor}", num_bytes, token)
    except (AttributeError, OSError):  # not a Linux, or no room
        pass
    offers = ranks.gather(offer)
    memory = [_mapped(its) for its in offers]
    is_whole = not ranks.any(any(its is None for its in memory))
    if descriptor >= 0:
        os.close(descriptor)  # what is mapped stays
    if not is_whole:
        return None
    found = [its for its in memory if its is not None]
    found[ranks.rank][:16] = 0
    ranks.barrier()
    return found


def _mapped(offer: _Offer | None) -> Tensor | None:
    if offer is None:
        return None
    try:
        with Path(offer.path).open("rb") as file:
            if file.read(16) != offer.token:
                return None
        return torch.from_file(offer.path, shared=True, size=offer.num_bytes, dtype=torch.uint8)
    except (OSError, RuntimeError):
        return None
