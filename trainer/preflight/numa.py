"""Binds each rank to the CPU cores that its GPU is attached to, and says once what was settled on the machines.

Memory needs no binding of its own: Linux puts a page on the node of the core that touches it first.
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from shardtune.counted import counted
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.gpu.own_gpu import pci_address
from shardtune.trainer.distributed.rank_env import is_bound_by_slurm
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.preflight.probe import host_name

SYS, TASKS = Path("/sys"), Path("/proc/self/task")


@dataclass(frozen=True)
class Seat:
    """The cores of a rank, and of the NUMA node that its GPU is attached to."""

    host: str
    allowed: frozenset[int]
    """The cores that the rank may use."""
    threads: int
    """The threads that it computes with on the CPU."""
    node: int | None = None
    """The NUMA node of its GPU; None if there is one node only, or the machine does not tell."""
    cores: frozenset[int] = frozenset()
    """The cores of that node."""
    is_bound: bool = False
    """Whether the scheduler has bound it to cores."""


@dataclass(frozen=True)
class Binding:
    """What to do with a rank."""

    cores: frozenset[int] | None = None
    """The cores to bind it to; None: it stays as it is."""
    reason: str | None = None
    """Why it is not bound, if a user may expect it to be."""


def settle_ranks(recipe: Recipe, ranks: Ranks) -> list[str]:
    """Collective: binds the ranks to cores as job.numa_binding says; returns what to say about that and about what was
    settled while they connected."""
    if ranks.device.type != "cuda" or recipe.job.numa_binding == "none":
        return shared_notes(ranks)
    seats = ranks.gather(find_seat(pci_address(ranks.device), threads=torch.get_num_threads()))
    bindings = bind(seats)
    if (cores := bindings[ranks.rank].cores) is not None:
        bind_all_threads(cores)
    return [*shared_notes(ranks), *render_bindings(seats, bindings)]


def shared_notes(ranks: Ranks) -> list[str]:
    """Collective: the notes of all ranks, each once, with the machine's name if not all have it."""
    gathered = ranks.gather((host_name(), ranks.notes))
    hosts = set(dict(gathered))
    by_text: dict[str, set[str]] = {}
    for host, texts in gathered:
        for text in texts:
            by_text.setdefault(text, set()).add(host)
    return [text if of == hosts else f"{text} ({_some(sorted(of))})" for text, of in by_text.items()]


def find_seat(address: str | None, *, threads: int, sys: Path = SYS) -> Seat:
    """The seat of this process, whose GPU has this PCI address; `sys` is where sysfs is mounted."""
    allowed = frozenset(os.sched_getaffinity(0))
    seat = Seat(host_name(), allowed, threads, is_bound=is_bound_by_slurm())
    nodes = [parse_cores(path.read_text()) for path in (sys / "devices/system/node").glob("node[0-9]*/cpulist")]
    if address is None or sum(bool(cores & allowed) for cores in nodes) < 2:
        return seat
    with suppress(OSError, ValueError):
        device = sys / "bus/pci/devices" / address
        if (node := int((device / "numa_node").read_text())) >= 0:  # -1: the firmware does not tell
            cores = parse_cores((device / "local_cpulist").read_text())
            return Seat(seat.host, allowed, threads, node, cores, seat.is_bound)
    return seat


def bind(seats: Sequence[Seat]) -> list[Binding]:
    """What to do with each rank: those of a node share all of its cores that they may use.

    A rank stays as it is if the scheduler has bound it, and if it would get fewer cores than it has threads: with one
    rank on a machine of two nodes, half of the cores would lie idle.
    """
    neighbors = Counter((seat.host, seat.node) for seat in seats)
    return [_bind(seat, neighbors[seat.host, seat.node]) for seat in seats]


def _bind(seat: Seat, num_sharing: int) -> Binding:
    if seat.node is None or seat.allowed <= seat.cores:
        return Binding()
    cores = seat.allowed & seat.cores
    if seat.is_bound:
        return Binding(reason="Slurm has bound them to cores")
    if not cores:
        return Binding(reason="none of the cores that they may use is on the NUMA node of their GPU")
    if seat.threads * num_sharing > len(cores):
        return Binding(
            reason=f"the {counted(num_sharing, 'rank')} of a NUMA node have {counted(seat.threads, 'thread')} each, "
            f"and the node has {counted(len(cores), 'core')}; job.threads_per_rank can lower that"
        )
    return Binding(cores)


def bind_all_threads(cores: frozenset[int], tasks: Path = TASKS) -> None:
    """Restricts all threads of this process to the cores, except those that have been given cores of their own."""
    before = os.sched_getaffinity(0)
    for task in tasks.iterdir():
        with suppress(OSError):  # a thread that has just ended
            if os.sched_getaffinity(int(task.name)) == before:
                os.sched_setaffinity(int(task.name), cores)


def render_bindings(seats: Sequence[Seat], bindings: Sequence[Binding]) -> list[str]:
    """What to say: how many ranks are bound, to how many cores, and why others are not."""
    lines = []
    if sizes := sorted(len(binding.cores) for binding in bindings if binding.cores is not None):
        hosts = {seat.host for seat, binding in zip(seats, bindings, strict=True) if binding.cores is not None}
        where = "" if len({seat.host for seat in seats}) == 1 else f" on {counted(len(hosts), 'machine')}"
        each = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        lines.append(
            f"{counted(len(sizes), 'rank')}{where}: each bound to the {each} cores of the NUMA node of its GPU "
            "(job.numa_binding)"
        )
    for reason, number in Counter(binding.reason for binding in bindings if binding.reason).items():
        lines.append(f"{counted(number, 'rank')} not bound to the cores near its GPU (job.numa_binding): {reason}")
    return lines


def parse_cores(text: str) -> frozenset[int]:
    """`0-2,8` -> {0, 1, 2, 8}; the kernel's notation of a set of cores."""
    spans = (span.partition("-") for span in text.strip().split(",") if span)
    return frozenset(core for first, _, last in spans for core in range(int(first), int(last or first) + 1))


def _some(hosts: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(hosts[:most])
    return shown if len(hosts) <= most else f"{shown} and {len(hosts) - most} more"
