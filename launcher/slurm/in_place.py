"""Whether ranks that have failed are restarted within their job's allocation, and on which of its nodes. Pure.

In the queue of a busy cluster a job may wait for hours; within the allocation a restart takes seconds. Any number of
ranks resumes the same run with the same global batch, so that a node that is lost need not be replaced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shardtune.counted import counted

LEAST_SHARE = 0.5
"""The part of a job's nodes that must be left: with fewer, waiting for all of them is the better choice."""
LEAST_RUN_S = 120.0
"""A restart must have at least this long until the job's warning."""


@dataclass(frozen=True)
class Situation:
    """What is known of a job whose ranks have failed."""

    nodes: Sequence[str]
    """Those that the ranks ran on."""
    all_nodes: Sequence[str]
    """Those that the job began with."""
    left: Sequence[str]
    """Those that the job still has and that answer, in the order of all_nodes."""
    on_lost_node: Literal["shrink", "requeue"]
    is_warned: bool
    """Whether Slurm or a user has announced the end of the job."""
    warned_in_s: float | None
    """Seconds until its time limit's warning; None if it has no limit."""
    has_stepped: bool
    is_restart: bool
    """Whether this start was itself a restart within the allocation."""
    is_users_fault: bool
    """Whether a rank failed for something that a user has to fix, such as too little memory."""


@dataclass(frozen=True)
class Here:
    """A restart within the allocation."""

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Queue:
    """No restart within the allocation, and the reason; an empty reason if nothing needs to be said."""

    reason: str


def lost_nodes(seen: Situation) -> list[str]:
    """The nodes of the ranks that the job no longer has, or that do not answer."""
    return [node for node in seen.nodes if node not in seen.left]


def choose_place(seen: Situation) -> Here | Queue:
    """Where the ranks are restarted."""
    if seen.is_warned:
        return Queue("")
    if seen.warned_in_s is not None and seen.warned_in_s < LEAST_RUN_S:
        return Queue("too little of the time limit is left to restart in this job")
    lost = lost_nodes(seen)
    if lost and seen.on_lost_node == "requeue":
        return Queue("job.on_lost_node is requeue")
    if len(seen.left) < max(1.0, LEAST_SHARE * len(seen.all_nodes)):
        return Queue(f"only {len(seen.left)} of {counted(len(seen.all_nodes), 'node')} are left")
    if lost:
        return Here(tuple(seen.left))
    is_shrunk = len(seen.nodes) < len(seen.all_nodes)
    if is_shrunk and (seen.is_users_fault or not seen.has_stepped):
        return Queue(f"{counted(len(seen.nodes), 'node')} may be too few")
    if seen.is_restart and not seen.has_stepped:
        return Queue("a restart in this job did not reach a step either")
    return Here(tuple(seen.left))
