"""Who writes a run directory: one start of its run at a time, also where a start that is believed dead lives on.

A file names the holder, which keeps touching it. A later start of the same job takes it over at once, any other start
only once nobody has touched it for a while. Whoever has lost it finds out before it writes again, and stops.
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
from shardtune.run_dir.lease_holder import LeaseHolder, held_by, read_holder
from shardtune.trainer.distributed.ranks import Ranks

BEAT_S = 5.0
STALE_S = 60.0
"""A holder that was not seen for so long is dead. Many beats: a file server may well keep one waiting."""


class Lease(Protocol):
    """The right to write the run directory."""

    def check(self) -> None:
        """Raises TakenOverError if it has been lost; for rank zero to look, often."""
        ...

    def check_here(self) -> None:
        """The same for whichever rank is about to write something alone."""
        ...

    def close(self) -> None:
        """Gives it back."""
        ...


class PeersLease:
    """Of the ranks above zero: rank zero's end is theirs, and the file is not asked by all of them."""

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
            with contextlib.suppress(OSError):  # the file server is away; a later beat will do
                holder = read_holder(self._path)
                if holder is not None and holder.token == self.token:
                    os.utime(self._path)


def open_lease(run_dir: Path, ranks: Ranks, *, job: str | None = None) -> Lease:
    """Collective: the lease of the run directory. Raises CheckpointError, on every rank, if another start holds it."""
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
    """Raises TakenOverError if the lease is another start's by now."""
    try:
        holder = read_holder(path)
        is_lost = holder.token != token if holder is not None else path.parent.is_dir()
    except OSError:  # the file server is away, also for whoever might have taken it; a later look will do
        return
    if is_lost:
        taker = f"by {holder}" if holder else "and given back"
        raise TakenOverError(
            f"{path.parent} has been taken over {taker}: this start was believed dead, and ends here "
            "without another checkpoint"
        )


def wait_for_lease(
    path: Path,
    job: str | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Returns once the lease may be taken; raises CheckpointError as soon as its holder is seen alive."""
    holder, beat, since = read_holder(path), _touched(path), clock()
    if holder is None or (job is not None and holder.job == job):
        return
    while (dead := holder.is_dead()) is None and clock() - since < STALE_S and _touched(path) == beat:
        sleep(1.0)
        if read_holder(path) is None:
            return
    if dead is False or (dead is None and _touched(path) != beat):
        raise held_by(holder, path)


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
