"""The owner of the lease of a run directory (trainer/distributed/lease.py), for any process to read."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shardtune.errors import CheckpointError
from shardtune.processes import pid_scope, start_ticks
from shardtune.shell_line import shell_line


@dataclass(frozen=True)
class LeaseHolder:
    """The process that owns a lease."""

    token: str
    job: str | None
    """The scheduler's id of the job; None without a scheduler."""
    host: str
    pid: int
    kernel: str
    """The boot and the process namespace in which pid is counted."""
    born: int
    """When the process started, in clock ticks after the boot."""

    def __str__(self) -> str:
        return f"{f'job {self.job}, ' if self.job else ''}process {self.pid} on {self.host}"

    def is_dead(self) -> bool | None:
        """Whether the process has ended; None if this process cannot know, because the owner runs on another
        machine."""
        if self.kernel != pid_scope():
            return None
        return start_ticks(self.pid) != self.born


def read_holder(path: Path) -> LeaseHolder | None:
    """Return the owner of the lease, or None."""
    try:
        return LeaseHolder(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def run_dir_in_use(holder: LeaseHolder, path: Path) -> CheckpointError:
    """The error for another start."""
    return CheckpointError(
        f"{path.parent} is owned by {holder}; wait until it has finished, or stop it: {shell_line('stop', path.parent)}"
    )


def refuse_while_held(path: Path, patience_s: float, say: Callable[[str], None]) -> None:
    """Raises CheckpointError if a process on this machine owns the lease and still does after `patience_s` seconds.

    For callers that change a run directory before there is a rank that could take the lease.
    """
    until, is_announced = time.monotonic() + patience_s, False
    while (holder := read_holder(path)) is not None and holder.is_dead() is False:
        if time.monotonic() > until:
            raise run_dir_in_use(holder, path)
        if not is_announced:
            say(f"{path.parent} is owned by {holder}; waiting in case it is about to exit")
            is_announced = True
        time.sleep(0.2)
