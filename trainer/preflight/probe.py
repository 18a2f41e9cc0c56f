"""What each rank can find out about its machine in about a second. Facts only: trainer/preflight/preflight.py
judges."""

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
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.preflight.clock_skew import clock_offsets
from shardtune.trainer.preflight.nvidia_smi import GpuHealth, look_at_gpus

PACKAGES = ("torch", "deepspeed", "transformers", "numpy")
MATMUL_S = 0.2
"""How long a rank multiplies matrices, at least."""
SHARED_FILE_S = 10.0
"""How long a file server may take to show what another machine has written."""


@dataclass(frozen=True)
class Facts:
    """One rank's."""

    rank: int
    host: str
    versions: Mapping[str, str]
    recipe: str | None
    """What it is about to learn, as a hash."""
    device: str
    tflops: float
    """Of matrix products: bf16 on a GPU, fp32 on a CPU; the fastest of several."""
    free_gb: float
    """Where the run directory is."""
    clock_s: float
    """How far its machine's wall clock is ahead of that of rank zero's."""
    sees_run_dir: bool
    """Whether it sees what rank zero has just written there."""
    sees_changes: bool = True
    """And that rank zero has then written something else in its place."""
    is_seen: bool = True
    """Whether rank zero sees what its machine has written there."""
    gpu: str | None = None
    """Its GPU's name for nvidia-smi, GPU-…; None on a CPU."""
    health: GpuHealth | None = None
    """That of its machine's GPUs, from one of its ranks."""


def probe(run_dir: Path, ranks: Ranks, *, recipe: str | None = None, gpus: bool) -> list[Facts]:
    """Collective: the facts of every rank, in the order of the ranks; `gpus`: whether nvidia-smi is asked, too."""
    hosts = ranks.gather(host_name())
    is_first = hosts.index(host_name()) == ranks.rank
    sees_run_dir, is_fresh, is_seen = _share_files(run_dir, ranks, is_first=is_first)
    offsets = clock_offsets(ranks, hosts)
    tflops = matmul_tflops(ranks.device)
    uses_gpu = ranks.device.type == "cuda"
    facts = Facts(
        rank=ranks.rank,
        host=host_name(),
        versions={name: found for name in PACKAGES if (found := _version(name)) is not None},
        recipe=recipe,
        device=torch.cuda.get_device_name(ranks.device) if uses_gpu else "cpu",
        gpu=f"GPU-{torch.cuda.get_device_properties(ranks.device).uuid}" if uses_gpu else None,
        tflops=tflops,
        free_gb=shutil.disk_usage(run_dir).free / 1e9,
        clock_s=offsets[ranks.rank],
        sees_run_dir=sees_run_dir,
        sees_changes=is_fresh,
        is_seen=is_seen,
        health=look_at_gpus() if gpus and is_first else None,  # at once after its GPUs were busy
    )
    return ranks.gather(facts)


def _share_files(run_dir: Path, ranks: Ranks, *, is_first: bool) -> tuple[bool, bool, bool]:
    """Collective: whether this rank sees a file of rank zero's, and that its text has changed, and whether rank zero
    sees one of this rank's, which one rank of each machine writes."""
    token = ranks.gather(uuid.uuid4().hex)[0]
    theirs, mine = (run_dir / f".preflight-{token}-{rank}" for rank in (0, ranks.rank))
    if is_first:
        with suppress(OSError):  # rank zero then does not see it
            mine.write_text(token, encoding="ascii")
    ranks.barrier()
    sees = _appear([theirs], token) == [True]
    writers = [rank for rank, its in enumerate(ranks.gather(is_first)) if its]
    seen: list[int] = []
    if ranks.is_zero:
        there = _appear([run_dir / f".preflight-{token}-{rank}" for rank in writers], token)
        seen = [rank for rank, its in zip(writers, there, strict=True) if its]
        write_atomically(theirs, token[::-1])
    seen = ranks.gather(seen)[0]
    is_fresh = not sees or _appear([theirs], token[::-1]) == [True]
    ranks.barrier()
    if is_first:
        mine.unlink(missing_ok=True)
    return sees, is_fresh, ranks.rank in seen or not is_first


def host_name() -> str:
    """This machine's, without its domain, as Slurm calls its nodes."""
    return socket.gethostname().split(".")[0]


def matmul_tflops(device: torch.device) -> float:
    """How fast this rank multiplies matrices, in 10^12 operations a second."""
    size, dtype = (4096, torch.bfloat16) if device.type == "cuda" else (384, torch.float32)
    a = torch.ones(size, size, device=device, dtype=dtype)
    best, began = float("inf"), time.monotonic()
    while time.monotonic() - began < MATMUL_S or best == float("inf"):
        since = time.monotonic()
        (a @ a)[0, 0].item()  # waits for the GPU
        best = min(best, time.monotonic() - since)
    return 2 * size**3 / best / 1e12


def _appear(paths: Sequence[Path], text: str) -> list[bool]:
    """Whether each of these files has the text, at the latest after SHARED_FILE_S."""
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
