"""This process's rank, read from the environment that torchrun, deepspeed or a test sets, before ranks connect."""

import os
import socket
import time
from pathlib import Path

from shardtune.machine.visible_gpus import CUDA_VISIBLE_DEVICES
from shardtune.run_dir.launch_times import launch_times
from shardtune.run_dir.lease import LEASE_TOKEN


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


def is_bound_by_slurm() -> bool:
    """Whether srun has bound this task to cores (--cpu-bind)."""
    return os.environ.get("SLURM_CPU_BIND_TYPE", "none") not in ("", "none")


def has_plain_gpu_numbers() -> bool:
    """Whether CUDA_VISIBLE_DEVICES is unset or lists numbers, rather than UUIDs of GPUs or MIG instances."""
    visible = os.environ.get(CUDA_VISIBLE_DEVICES, "")
    return all(word.strip().isdecimal() for word in visible.split(",") if word.strip())


def lease_token() -> str | None:
    """The token of the lease that this start's launcher, or batch job, has taken; None for ranks started by hand."""
    return os.environ.get(LEASE_TOKEN)


def begin_times() -> dict[str, float]:
    """The times of a `begin` event: of this process, and what its launcher or batch job has told it (launch_times)."""
    return {"process_began": _process_began(), **launch_times(os.environ)}


def _process_began() -> float:
    """When this process began, in seconds since the epoch."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    since_boot = float(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


def start_name() -> str | None:
    """What the ranks of this start have in common, and no rank of another start at the same time; None if unknown.

    The address at which they meet: two starts cannot have the same one.
    """
    address = os.environ.get("MASTER_ADDR")
    if address is None:
        return None
    host = socket.gethostname() if address in ("localhost", "127.0.0.1", "::1") else address
    names = ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    return " ".join([host, *(os.environ.get(name, "") for name in names)])
