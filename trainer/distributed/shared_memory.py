"""Memory that the ranks of one machine share: CPU ranks read each other's numbers instead of sending them.

It has no name that could outlive the ranks, however they end (memfd_create(2), opened through /proc).
"""

import os
import uuid
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from shardtune.trainer.distributed.ranks import Ranks


class _Offer(NamedTuple):
    """Path of a rank's memory, and the token at its start, because another machine may have the same path."""

    path: str
    num_bytes: int
    token: bytes


def common_memory(num_bytes: int, ranks: Ranks) -> list[Tensor] | None:
    """Collective: zeros of each rank that all ranks see, uint8 of shape (num_bytes,); num_bytes may differ by rank.

    None if a rank cannot see another rank's memory, because they are on different machines or in different containers,
    or if memory is short.
    """
    num_bytes = max(num_bytes, 16)
    token = uuid.uuid4().bytes
    descriptor = -1
    offer = None
    try:
        descriptor = os.memfd_create("shardtune")
        os.posix_fallocate(descriptor, 0, num_bytes)  # otherwise a lack of memory would show as a signal later
        os.pwrite(descriptor, token, 0)
        offer = _Offer(f"/proc/{os.getpid()}/fd/{descriptor}", num_bytes, token)
    except (AttributeError, OSError):  # not Linux, or memory is short
        pass
    offers = ranks.gather(offer)
    memory = [_mapped(offered) for offered in offers]
    is_whole = not ranks.any(any(tensor is None for tensor in memory))
    if descriptor >= 0:
        os.close(descriptor)  # mappings stay
    if not is_whole:
        return None
    tensors = [tensor for tensor in memory if tensor is not None]
    tensors[ranks.rank][:16] = 0
    ranks.barrier()
    return tensors


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
