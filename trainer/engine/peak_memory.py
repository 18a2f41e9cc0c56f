"""Peak memory of this process."""

import resource
import sys

import torch


def peak_memory(device: torch.device) -> int:
    """Peak bytes: allocated on the GPU, or resident in this process where the device is the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
