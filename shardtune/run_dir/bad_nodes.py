"""Machines that a run does better without, as its run directory keeps them, and how many it may give up."""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shardtune.run_dir.files import write_atomically

BAD_NODES = "bad_nodes.json"
LEAST_BAD_NODES = 4
"""So many a run may give up at least, and of a large one an eighth: if more are bad, it is not the nodes."""


@dataclass(frozen=True)
class BadNode:
    """One machine."""

    node: str
    why: str
    """slow, sick or unfit."""
    job: str
    """Whose start has found that out."""
    time: float
    """When, in seconds since the epoch."""


def read_bad_nodes(run_dir: Path) -> list[BadNode]:
    """Those that the run was given up for so far, oldest first."""
    path = run_dir / BAD_NODES
    if not path.is_file():
        return []
    return [BadNode(**its) for its in json.loads(path.read_text(encoding="utf-8"))]


def keep_bad_nodes(run_dir: Path, found: Mapping[str, str], *, job: str) -> None:
    """Writes these down too; node -> why."""
    kept = [*read_bad_nodes(run_dir), *(BadNode(node, why, job, time.time()) for node, why in found.items())]
    write_atomically(run_dir / BAD_NODES, json.dumps([asdict(its) for its in kept], indent=1))


def to_leave(found: Mapping[str, str], known: Sequence[BadNode], nodes: Collection[str]) -> dict[str, str]:
    """Which of the bad nodes of a start are worth another start without them: none that was given up before, for Slurm
    has nothing better then; and nothing at all if so many are bad that it can hardly be the nodes.

    `nodes` are all of the start.
    """
    before = {its.node for its in known}
    new = {node: why for node, why in found.items() if node in nodes and node not in before}
    is_minority = len(new) <= max(1, len(nodes) // 2)
    return new if is_minority and len(before) + len(new) <= max(LEAST_BAD_NODES, len(nodes) // 8) else {}
