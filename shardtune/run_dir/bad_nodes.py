"""The bad nodes of a run, as kept in its run directory, and how many nodes a run may exclude."""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shardtune.run_dir.files import write_atomically

BAD_NODES = "bad_nodes.json"
LEAST_BAD_NODES = 4
"""A run may exclude at least this many nodes, and up to an eighth of a large one: if more are bad, the nodes are hardly
the cause."""


@dataclass(frozen=True)
class BadNode:
    """A node that a run excludes."""

    node: str
    why: str
    """slow, sick or unfit."""
    job: str
    """The job whose start found the node bad."""
    time: float
    """When it was found bad, in seconds since the epoch."""


def read_bad_nodes(run_dir: Path) -> list[BadNode]:
    """The nodes that the run has excluded so far, oldest first."""
    path = run_dir / BAD_NODES
    if not path.is_file():
        return []
    return [BadNode(**node) for node in json.loads(path.read_text(encoding="utf-8"))]


def keep_bad_nodes(run_dir: Path, bad: Mapping[str, str], *, job: str) -> None:
    """Add these nodes (node -> why) to the run's list."""
    kept = [*read_bad_nodes(run_dir), *(BadNode(node, why, job, time.time()) for node, why in bad.items())]
    write_atomically(run_dir / BAD_NODES, json.dumps([asdict(node) for node in kept], indent=1))


def may_be_excluded(bad: Mapping[str, str], known: Sequence[BadNode], nodes: Collection[str]) -> dict[str, str]:
    """The bad nodes of a start that justify another start without them. None that was excluded before, because then
    Slurm had nothing better; and none at all if so many are bad that the nodes are hardly the cause.

    `nodes` are all nodes of the start.
    """
    before = {excluded.node for excluded in known}
    new = {node: why for node, why in bad.items() if node in nodes and node not in before}
    is_minority = len(new) <= max(1, len(nodes) // 2)
    return new if is_minority and len(before) + len(new) <= max(LEAST_BAD_NODES, len(nodes) // 8) else {}
