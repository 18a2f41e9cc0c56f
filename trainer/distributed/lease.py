"""The lease of a run directory: one start writes it at a time, even if a start that is believed dead is still alive.

A file names the owner, which keeps touching it. A later start of the same job takes the lease over at once, any other
start only after nobody has touched the file for a while. A start that lost the lease notices before its next write, and
exits.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from shardtune.errors import CheckpointError, TakenOverError
from shardtune.processes import pid_scope, start_ticks
from shardtune.run_dir.files import LEASE, write_atomically
from shardtune.run_dir.lease_holder import LeaseHolder, read_holder, run_dir_in_use
from shardtune.trainer.distributed.ranks import Ranks

BEAT_S = 5.0
STALE_S = 60.0
"""An owner that was not seen for this long is dead. Many beats, because a file server may delay some."""


class Lease(Protocol):
    """The right to write the run directory."""

    def check(self) -> None:
        """Raises TakenOverError if the lease is lost; called often, and reads the file on rank 0 only."""
        ...

    def check_here(self) -> None:
        """Raises TakenOverError if the lease is lost; for any rank that is about to write on its own."""
        ...

    def close(self) -> None:
        """Releases the lease."""
        ...


class PeersLease:
    """The lease of the ranks above 0: they end when rank 0 does, so that not every rank has to read the file."""

    def __init__(self, path: Path, token: str) -> None:
        self._path, self._token = path, token

    def check(self) -> None:
        pass

    def check_here(self) -> None:
        _refuse_if_lost(self._path, self._token)

    def close(self) -> None:
        pass


class FileLease:
    """A lease held by this process."""

    def __init__(self, path: Path, job: str | None) -> None:
        self._path = path
        self.token = uuid.uuid4().hex
        me = LeaseHolder(self.token, job, socket.gethostname(), os.getpid(), pid_scope(), start_ticks(os.getpid()) or 0)
        write_atomically(path, json.dumps(asdict(me)))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        _refuse_if_lost(self._path, self.token)

    def check_here(self) -> None:
        self.check()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        holder = read_holder(self._path)
        if holder is not None and holder.token == self.token:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with contextlib.suppress(OSError):  # the file server is away; a later beat is enough
                holder = read_holder(self._path)
                if holder is not None and holder.token == self.token:
                    os.utime(self._path)


def open_lease(run_dir: Path, ranks: Ranks, *, job: str | None = None) -> Lease:
    """Collective: the lease of the run directory. Raises CheckpointError, on every rank, if another start owns it."""
    refusal: str | None = None
    path = run_dir / LEASE
    lease: FileLease | None = None
    if ranks.is_zero:
        try:
            wait_for_lease(path, job)
            lease = FileLease(path, job)
        except CheckpointError as error:
            refusal = str(error)
    refusal, token = ranks.gather((refusal, lease.token if lease else ""))[0]
    if refusal is not None:
        raise CheckpointError(refusal)
    return lease or PeersLease(path, token)


def _refuse_if_lost(path: Path, token: str) -> None:
    """Raises TakenOverError if another start owns the lease now."""
    try:
        holder = read_holder(path)
        is_lost = holder.token != token if holder is not None else path.parent.is_dir()
    except OSError:  # the file server is away, also for a start that might have taken over; a later look is enough
        return
    if is_lost:
        taker = f"another start, {holder}," if holder else "another start, which has finished,"
        raise TakenOverError(
            f"{path.parent}: {taker} took over this run directory (it believed this one dead); "
            "exiting without another checkpoint"
        )


def wait_for_lease(
    path: Path,
    job: str | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Returns once the lease may be taken. Raises CheckpointError as soon as its owner is seen alive."""
    holder, beat, since = read_holder(path), _touched(path), clock()
    if holder is None or (job is not None and holder.job == job):
        return
    while (dead := holder.is_dead()) is None and clock() - since < STALE_S and _touched(path) == beat:
        sleep(1.0)
        if read_holder(path) is None:
            return
    if dead is False or (dead is None and _touched(path) != beat):
        raise run_dir_in_use(holder, path)


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
