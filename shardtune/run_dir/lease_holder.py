"""Who holds the lease of a run directory (trainer/distributed/lease.py), as anybody may read."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shardtune.errors import CheckpointError
from shardtune.processes import pid_scope, start_ticks


@dataclass(frozen=True)
class LeaseHolder:
    """The process that a lease belongs to."""

    token: str
    job: str | None
    """The scheduler's name of the job, if there is a scheduler."""
    host: str
    pid: int
    kernel: str
    """The boot and the process namespace that pid is counted in."""
    born: int
    """When the process began, in clock ticks after the boot."""

    def __str__(self) -> str:
        return f"{f'job {self.job}, ' if self.job else ''}process {self.pid} on {self.host}"

    def is_dead(self) -> bool | None:
        """None where this process cannot know: it runs on another machine."""
        if self.kernel != pid_scope():
            return None
        return start_ticks(self.pid) != self.born


def read_holder(path: Path) -> LeaseHolder | None:
    """Who holds the lease; None if nobody does."""
    try:
        return LeaseHolder(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def held_by(holder: LeaseHolder, path: Path) -> CheckpointError:
    """What there is to say to another start."""
    return CheckpointError(
        f"{path.parent} is being written by {holder}; wait for its end, or stop it: shardtune stop {path.parent}"
    )


def refuse_while_held(path: Path, patience_s: float, say: Callable[[str], None]) -> None:
    """Raises CheckpointError if a process of this machine holds the lease, and still does after some seconds.

    For whoever is about to change a run directory before there is a rank that could take the lease.
    """
    until, is_said = time.monotonic() + patience_s, False
    while (holder := read_holder(path)) is not None and holder.is_dead() is False:
        if time.monotonic() > until:
            raise held_by(holder, path)
        if not is_said:
            say(f"{path.parent} is being written by {holder}; it may be about to end")
            is_said = True
        time.sleep(0.2)
