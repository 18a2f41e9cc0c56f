"""What the ranks can find out about their machines in about a second. Numbers only: trainer/preflight.py judges."""

import shutil
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.distributed as dist

from trainer.ranks import Ranks

PACKAGES = ("torch", "deepspeed", "transformers", "numpy")
MATMUL_S = 0.05
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
    """Its wall clock, in seconds since the epoch, at the same moment for all."""
    sees_run_dir: bool
    """Whether it sees what rank zero has just written there."""


@dataclass(frozen=True)
class Link:
    """What goes from one machine to another and back."""

    hosts: tuple[str, str]
    gb_per_s: float


def probe(run_dir: Path, ranks: Ranks, *, recipe: str | None = None) -> list[Facts]:
    """Collective: the facts of every rank, in the order of the ranks."""
    token = ranks.gather(uuid.uuid4().hex)[0]
    path = run_dir / f".preflight-{token}"
    if ranks.is_zero:
        path.write_text(token, encoding="ascii")
    ranks.barrier()
    clock = time.time()
    facts = Facts(
        rank=ranks.rank,
        host=host_name(),
        versions={name: found for name in PACKAGES if (found := _version(name)) is not None},
        recipe=recipe,
        device=torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu",
        tflops=matmul_tflops(ranks.device),
        free_gb=shutil.disk_usage(run_dir).free / 1e9,
        clock_s=clock,
        sees_run_dir=_appears(path, token),
    )
    gathered = ranks.gather(facts)
    if ranks.is_zero:
        path.unlink(missing_ok=True)
    return gathered


def measure_links(ranks: Ranks, hosts: Sequence[str]) -> list[Link]:
    """Collective: the links of a ring through the machines; `hosts` has the machine of every rank.

    A ring, for its time does not grow with the number of machines, and a slow machine has two slow links.
    """
    firsts = [hosts.index(host) for host in dict.fromkeys(hosts)]
    pairs = list(zip(firsts, [*firsts[1:], firsts[0]], strict=True)) if len(firsts) > 2 else [tuple(firsts)]
    if len(firsts) < 2:
        return []
    mine: list[Link] = []
    # Links that have no machine in common are measured at the same time; of an odd ring the last one goes alone.
    even = len(pairs) - len(pairs) % 2
    for at_once in (pairs[0:even:2], pairs[1:even:2], pairs[even:]):
        ranks.barrier()
        for a, b in at_once:
            if ranks.rank in (a, b):
                seconds = _there_and_back(ranks, b if ranks.rank == a else a, begins=ranks.rank == a)
                if ranks.rank == a:
                    mine.append(Link((hosts[a], hosts[b]), 2 * _payload(ranks.device).nbytes / seconds / 1e9))
    return [link for links in ranks.gather(mine) for link in links]


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


def _payload(device: torch.device) -> torch.Tensor:
    return torch.ones(2**26 if device.type == "cuda" else 2**20, device=device, dtype=torch.uint8)


def _there_and_back(ranks: Ranks, other: int, *, begins: bool) -> float:
    payload = _payload(ranks.device)
    first, second = (dist.send, dist.recv) if begins else (dist.recv, dist.send)
    for tensor in (payload[:1], payload):  # the first opens the connection
        since = time.monotonic()
        first(tensor, other)
        second(tensor, other)
        tensor[0].item()
    return time.monotonic() - since


def _appears(path: Path, text: str) -> bool:
    deadline = time.monotonic() + SHARED_FILE_S
    while True:
        try:
            list(path.parent.iterdir())  # makes NFS look again
            if path.read_text(encoding="ascii") == text:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
