"""Memory of this process: its peak, and what there is on its GPU."""

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
    retries: int = 0
    """How often the allocator of its GPU found no memory, returned all that no tensor uses to the driver, which waits
    for the GPU, and tried again."""


def peak_memory(device: torch.device) -> PeakMemory:
    """The peak of this process until now."""
    if device.type == "cuda":
        used, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        return PeakMemory(used, reserved, torch.cuda.memory_stats(device).get("num_alloc_retries", 0))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return PeakMemory(resident, resident)


@dataclass(frozen=True)
class GpuMemory:
    """The memory of a rank's GPU now, in bytes."""

    free: int | None
    """What no process has; None on a CPU, or if the driver does not answer any more after an error."""
    fragments: int
    """What torch's allocator has reserved, and no tensor uses."""


def gpu_memory(device: torch.device) -> GpuMemory:
    """The memory of a GPU; nothing is known of a CPU's."""
    if device.type != "cuda":
        return GpuMemory(None, 0)
    fragments = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        return GpuMemory(torch.cuda.mem_get_info(device)[0], fragments)
    except RuntimeError:
        return GpuMemory(None, fragments)
