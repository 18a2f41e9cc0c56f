"""Which GPU this rank computes on: what CUDA may see of it, and the number that the machine gives it."""

from collections.abc import MutableMapping
from pathlib import Path

import torch

from shardtune.counted import counted
from shardtune.errors import LaunchError
from shardtune.machine.nvidia_smi import ask_nvidia_smi
from shardtune.machine.visible_gpus import CUDA_VISIBLE_DEVICES, MIG, VISIBLE_GPUS, parse_listing, visible_gpus

CAPABILITIES = Path("/proc/driver/nvidia/capabilities")
"""Has a folder gpu0/mig/gi1 for each MIG instance of GPU 0."""
LISTED = Path("/proc/driver/nvidia/gpus")
"""Has a folder for each GPU, named after its PCI address, also within a job or container that may not use all of them
(a container's runtime may hide the others)."""


def choose_own_gpu(local: int, environment: MutableMapping[str, str]) -> int:
    """The index of this rank's GPU among those that CUDA will see; `local` is the rank's number on its machine.

    Changes the environment, before CUDA reads it: the launcher's list replaces what a program between has made of it,
    and of several MIG instances only this rank's stays visible, because CUDA uses the first one alone. Then LOCAL_RANK,
    by which DeepSpeed chooses the GPU, becomes 0. Raises LaunchError if there are fewer instances than ranks.
    """
    if (given := environment.pop(VISIBLE_GPUS, None)) is not None:
        environment[CUDA_VISIBLE_DEVICES] = given
    names = _names_by_rank(environment.get(CUDA_VISIBLE_DEVICES))
    if not names:
        return local
    if local >= len(names):
        raise LaunchError(
            f"local rank {local} has no GPU: this machine has {counted(len(names), 'MIG instance')} or GPUs for its "
            f"ranks; set job.ranks={len(names)}"
        )
    environment.update({CUDA_VISIBLE_DEVICES: names[local], "LOCAL_RANK": "0"})
    return 0


def _names_by_rank(variable: str | None) -> list[str]:
    """What each rank of this machine takes, if any of it is a MIG instance; empty if all GPUs are whole."""
    names = [name.strip() for name in (variable or "").split(",") if name.strip()]
    if any(name.startswith(MIG) for name in names):
        return names
    if not any(CAPABILITIES.glob("gpu*/mig/gi*")):
        return []
    # Started by hand on a machine with divided GPUs: whole ones, or none, are named.
    answer = ask_nvidia_smi("-L")
    if answer is None or answer.fault is not None:
        return []
    found = visible_gpus(parse_listing(answer.output), variable).names
    return list(found) if any(name.startswith(MIG) for name in found) else []


def pci_address(device: torch.device) -> str | None:
    """The PCI address of a GPU, such as 0000:3b:00.0, by which the kernel, the driver and nvidia-smi know it; that of
    the whole GPU for a MIG instance. None on a CPU, or where torch does not tell."""
    if device.type != "cuda":
        return None
    about = torch.cuda.get_device_properties(device)
    domain, bus, slot = (getattr(about, f"pci_{name}_id", None) for name in ("domain", "bus", "device"))
    if domain is None or bus is None or slot is None:
        return None
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"


def number_on_machine(address: str | None) -> int | None:
    """The number that nvidia-smi gives the GPU with this PCI address outside of jobs: GPUs are numbered by address."""
    listed = sorted(path.name.lower() for path in LISTED.glob("*:*"))
    return listed.index(address) if address in listed else None


def gpu_number(device: torch.device) -> int | None:
    """The machine's own number of a rank's GPU, whatever CUDA_VISIBLE_DEVICES leaves of the others; None on a CPU.

    Where the machine does not tell, the index within the visible ones.
    """
    if device.type != "cuda":
        return None
    number = number_on_machine(pci_address(device))
    return device.index if number is None else number
