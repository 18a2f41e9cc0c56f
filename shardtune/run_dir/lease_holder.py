"""The owner of the lease of a run directory (shardtune/run_dir/lease.py), for any process to read."""

import json
import os
import socket
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from shardtune.errors import CheckpointError
from shardtune.processes import pid_scope, start_ticks
from shardtune.shell_line import shell_line


@dataclass(frozen=True)
class Writer:
    """Rank 0 of a start whose lease its launcher, or its batch job, has taken."""

    token: str
    host: str
    pid: int
    kernel: str
    born: int

    def is_dead(self) -> bool | None:
        """Whether the process has ended; None if this process cannot know."""
        return _is_dead(self.pid, self.kernel, self.born)


@dataclass(frozen=True)
class LeaseHolder:
    """The start that owns a lease, and the process that took it."""

    token: str
    """Identifies the start."""
    job: str | None
    """The scheduler's id of the job; None without a scheduler."""
    host: str
    pid: int
    kernel: str
    """The boot and the process namespace in which pid is counted."""
    born: int
    """When the process started, in clock ticks after the boot."""
    start: str | None = None
    """What the ranks of a start by hand have in common in their environment; None with a launcher."""
    writer: Writer | None = None
    """Rank 0, if it is another process than the one that took the lease."""

    def __str__(self) -> str:
        return f"{f'job {self.job}, ' if self.job else ''}process {self.pid} on {self.host}"

    def is_dead(self) -> bool | None:
        """Whether all processes of the start that are named here have ended; None if this process cannot know, because
        one of them runs on another machine."""
        states = [_is_dead(self.pid, self.kernel, self.born), *([self.writer.is_dead()] if self.writer else [])]
        if False in states:
            return False
        return None if None in states else True


UNREADABLE = LeaseHolder("", None, "an unknown machine", 0, "", 0)
"""The owner of a lease whose text is not, or not yet, complete."""


def this_process(*, job: str | None, token: str, start: str | None = None, pid: int | None = None) -> LeaseHolder:
    """This process, or its ancestor `pid` that outlives it, as the owner of a lease."""
    pid = os.getpid() if pid is None else pid
    return LeaseHolder(token, job, socket.gethostname(), pid, pid_scope(), start_ticks(pid) or 0, start)


def render_holder(holder: LeaseHolder) -> str:
    """The content of the lease."""
    return json.dumps(asdict(holder))


def read_holder(path: Path) -> LeaseHolder | None:
    """Return the owner of the lease, or None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        writer = record.pop("writer", None)
        return LeaseHolder(**_known(LeaseHolder, record), writer=Writer(**_known(Writer, writer)) if writer else None)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError):
        return UNREADABLE


def run_dir_in_use(holder: LeaseHolder, path: Path) -> CheckpointError:
    """The error for another start."""
    return CheckpointError(
        f"{path.parent} is owned by {holder}; wait until it has finished, or stop it: {shell_line('stop', path.parent)}"
    )


def _known(kind: type[LeaseHolder] | type[Writer], record: dict[str, Any]) -> dict[str, Any]:
    """The fields of the record that this version of shardtune knows."""
    return {field.name: record[field.name] for field in fields(kind) if field.name in record}


def _is_dead(pid: int, kernel: str, born: int) -> bool | None:
    return start_ticks(pid) != born if kernel == pid_scope() else None
