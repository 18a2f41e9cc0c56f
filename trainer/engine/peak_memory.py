"""Peak memory of this process."""

import resource
import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PeakMemory:
    """The most memory that a rank has had, in bytes."""

    used: int
    """By tensors on its GPU, or resident in its process where the device is the CPU."""
    reserved: int
    """By torch's allocator on its GPU: what is reserved and not used is fragments. As `used` on the CPU."""


def peak_memory(device: torch.device) -> PeakMemory:
    """The peak of this process until now."""
    if device.type == "cuda":
        return PeakMemory(torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return PeakMemory(resident, resident)
