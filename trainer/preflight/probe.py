"""Facts that each rank measures about its machine, in about a second; trainer/preflight/preflight.py judges them."""

import shutil
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from shardtune.run_dir.files import write_atomically
from shardtune.trainer.distributed.gpu.own_gpu import gpu_number, pci_address
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.preflight.clock_skew import clock_offsets
from shardtune.trainer.preflight.nvidia_smi import GpuHealth, look_at_gpus

PACKAGES = ("torch", "deepspeed", "transformers", "numpy")
MATMUL_S = 0.2
"""Shortest time for which a rank multiplies matrices."""
SHARED_FILE_S = 10.0
"""Longest time that a file server may take to show what another machine has written."""


@dataclass(frozen=True)
class Facts:
    """The facts of one rank."""

    rank: int
    host: str
    versions: Mapping[str, str]
    recipe: str | None
    """Hash of what is learned."""
    device: str
    tflops: float
    """Speed of matrix products: bf16 on a GPU, fp32 on a CPU; the fastest of several."""
    free_gb: float
    """Free space where the run directory is."""
    clock_s: float
    """How far the wall clock of its machine is ahead of that of rank 0."""
    sees_run_dir: bool
    """Whether it sees what rank 0 has just written to the run directory."""
    sees_changes: bool = True
    """Whether it also sees that rank 0 has then replaced that file."""
    is_seen: bool = True
    """Whether rank 0 sees what its machine has written to the run directory."""
    gpu: str | None = None
    """PCI address of its GPU; None on a CPU."""
    gpu_number: int | None = None
    """The machine's own number of its GPU; None on a CPU."""
    health: GpuHealth | None = None
    """Health of its machine's GPUs, on one rank of each machine."""


def device_name(device: torch.device) -> str:
    """The name of the GPU, as its driver says it; `cpu` without one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def probe(run_dir: Path, ranks: Ranks, *, recipe: str | None = None, gpus: bool) -> list[Facts]:
    """Collective: the facts of every rank, in rank order; `gpus`: whether to call nvidia-smi too."""
    hosts = ranks.gather(host_name())
    is_first = hosts.index(host_name()) == ranks.rank
    sees_run_dir, is_fresh, is_seen = _share_files(run_dir, ranks, is_first=is_first)
    offsets = clock_offsets(ranks, hosts)
    tflops = matmul_tflops(ranks.device)
    facts = Facts(
        rank=ranks.rank,
        host=host_name(),
        versions={name: installed for name in PACKAGES if (installed := _version(name)) is not None},
        recipe=recipe,
        device=device_name(ranks.device),
        gpu=pci_address(ranks.device),
        gpu_number=gpu_number(ranks.device),
        tflops=tflops,
        free_gb=shutil.disk_usage(run_dir).free / 1e9,
        clock_s=offsets[ranks.rank],
        sees_run_dir=sees_run_dir,
        sees_changes=is_fresh,
        is_seen=is_seen,
        health=look_at_gpus() if gpus and is_first else None,  # right after its GPUs were busy
    )
    return ranks.gather(facts)


def _share_files(run_dir: Path, ranks: Ranks, *, is_first: bool) -> tuple[bool, bool, bool]:
    """Collective: whether this rank sees a file of rank 0, whether it sees the text change, and whether rank 0 sees the
    file of this rank's machine. One rank of each machine looks; for the others, all is true."""
    token = ranks.from_zero(uuid.uuid4().hex)
    of_zero, mine = (run_dir / f".preflight-{token}-{rank}" for rank in (0, ranks.rank))
    if is_first:
        with suppress(OSError):  # rank 0 then does not see it
            mine.write_text(token, encoding="ascii")
    ranks.barrier()
    sees = not is_first or _appear([of_zero], token) == [True]
    writers = [rank for rank, writes in enumerate(ranks.to_zero(is_first)) if writes]
    seen: list[int] = []
    if ranks.is_zero:
        there = _appear([run_dir / f".preflight-{token}-{rank}" for rank in writers], token)
        seen = [rank for rank, appeared in zip(writers, there, strict=True) if appeared]
        write_atomically(of_zero, token[::-1])
    seen = ranks.from_zero(seen)
    is_fresh = not (is_first and sees) or _appear([of_zero], token[::-1]) == [True]
    ranks.barrier()
    if is_first:
        mine.unlink(missing_ok=True)
    return sees, is_fresh, ranks.rank in seen or not is_first


def host_name() -> str:
    """The name of this machine without its domain, as Slurm names its nodes."""
    return socket.gethostname().split(".")[0]


def matmul_tflops(
    device: torch.device, *, dtype: torch.dtype | None = None, size: int | None = None, least_s: float = MATMUL_S
) -> float:
    """Speed at which this rank multiplies square matrices, in 10^12 operations a second: the fastest of several times.

    By default in bf16 on a GPU and in fp32 on a CPU.
    """
    is_gpu = device.type == "cuda"
    size, dtype = size or (4096 if is_gpu else 384), dtype or (torch.bfloat16 if is_gpu else torch.float32)
    a = torch.ones(size, size, device=device, dtype=dtype)
    best, began = float("inf"), time.monotonic()
    while time.monotonic() - began < least_s or best == float("inf"):
        since = time.monotonic()
        (a @ a)[0, 0].item()  # waits for the GPU
        best = min(best, time.monotonic() - since)
    return 2 * size**3 / best / 1e12


def _appear(paths: Sequence[Path], text: str) -> list[bool]:
    """Whether each of these files has the text within SHARED_FILE_S."""
    deadline = time.monotonic() + SHARED_FILE_S
    there = [False] * len(paths)
    while True:
        with suppress(OSError):
            list(paths[0].parent.iterdir())  # makes NFS look again
        for number, path in enumerate(paths):
            with suppress(OSError):
                there[number] = there[number] or path.read_text(encoding="ascii") == text
        if all(there) or time.monotonic() > deadline:
            return there
        time.sleep(0.1)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
