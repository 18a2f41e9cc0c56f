"""The lease of a run directory: one start writes it at a time, from before its first write to after its last.

A start is a launcher and its ranks, a Slurm job from its begin to its end, or ranks that were started by hand. Whoever
begins it takes the lease before anything else is written. Rank 0, and the preparation before it, join that lease: then
the start lives as long as one of the two processes.

    shardtune run        launcher  takes | config.yaml, stop          … restarts …              | releases
                         rank 0          |   joins | checkpoints |      joins | checkpoints |   |
    slurm/finetune.sh    begin     takes | config.yaml, stop, status.json         … end …       | releases
                         rank 0          |   joins | checkpoints |      joins | checkpoints |   |
    torchrun, deepspeed  rank 0    takes | config.yaml, stop, checkpoints                       | releases

A start that is refused has written nothing before it but its folders and lines at the end of a log; neither takes
anything from the start that lives. A file names the owner, which keeps touching it (in a Slurm job the batch shell
does). A later start of the same job takes the lease over at once, any other start only when the owner is dead, or
nobody has touched the file for a while. A start that lost the lease notices before its next write, and exits.

Of starts that come together one gets the lease: a hard link is created by one process only, also on NFS, and so is the
file that names the successor of an owner that is dead.
"""

import contextlib
import errno
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from shardtune.errors import CheckpointError, TakenOverError
from shardtune.run_dir.files import write_atomically
from shardtune.run_dir.lease_holder import (
    LeaseHolder,
    Writer,
    read_holder,
    render_holder,
    run_dir_in_use,
    this_process,
)

LEASE_TOKEN = "SHARDTUNE_LEASE"
"""The environment variable by which the ranks know the lease of their start."""
BEAT_S = 5.0
STALE_S = 60.0
"""An owner that was not seen for this long is dead. Many beats, because a file server may delay some."""
OWNER_GRACE_S = 10.0
"""How long a start waits for one that is about to end: ranks whose launcher was killed save a checkpoint first."""
SUCCESSION_S = 2.0
"""How long a start waits for another one that is replacing a dead owner, which takes milliseconds."""


def _silent(_: str) -> None:
    pass


class FileLease:
    """A lease held by this process, or by its start and joined by this process, which keeps touching it."""

    def __init__(self, path: Path, token: str, writer: str | None = None) -> None:
        self._path = path
        self.token = token
        self.writer = writer
        """The token of this process among those that have joined; None if it has taken the lease itself."""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises TakenOverError if the lease is lost."""
        refuse_if_lost(self._path, self.token, self.writer)

    def check_here(self) -> None:
        """Raises TakenOverError if the lease is lost."""
        self.check()

    def leave(self) -> None:
        """Stops touching the lease, which stays with the start."""
        self._closed.set()
        self._thread.join()

    def close(self) -> None:
        """Releases the lease, if this process took it."""
        self.leave()
        if self.writer is None:
            release(self._path, self.token)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with contextlib.suppress(OSError):  # the file server is away; a later beat is enough
                holder = read_holder(self._path)
                if holder is not None and holder.token == self.token:
                    os.utime(self._path)


def take_lease(
    path: Path,
    job: str | None = None,
    *,
    start: str | None = None,
    pid: int | None = None,
    patience_s: float = 0.0,
    say: Callable[[str], None] = _silent,
) -> FileLease:
    """The lease, for a new start. Raises CheckpointError if another start that is not dead owns it after `patience_s`.

    `pid` is an ancestor of this process for which it takes the lease; `start` is what ranks by hand have in common.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    me = this_process(job=job, token=uuid.uuid4().hex, start=start, pid=pid)
    _take(path, me, lambda: wait_for_lease(path, job, patience_s=patience_s, say=say))
    return FileLease(path, me.token)


def join_lease(path: Path, token: str) -> FileLease:
    """The lease that the start of this process has taken, for its rank 0 or its preparation.

    Raises TakenOverError if another start owns it by now.
    """
    refuse_if_lost(path, token)
    me = this_process(job=None, token=uuid.uuid4().hex)
    with _succession(path, token, me):
        refuse_if_lost(path, token)
        holder = read_holder(path)
        if holder is not None:
            writer = Writer(me.token, me.host, me.pid, me.kernel, me.born)
            write_atomically(path, render_holder(replace(holder, writer=writer)))
    return FileLease(path, token, me.token)


def release(path: Path, token: str) -> None:
    """Releases the lease, unless another start owns it by now."""
    me = this_process(job=None, token=uuid.uuid4().hex)
    with contextlib.suppress(CheckpointError, FileNotFoundError), _succession(path, token, me):
        holder = read_holder(path)
        if holder is not None and holder.token == token:
            path.unlink(missing_ok=True)


def refuse_if_lost(path: Path, token: str, writer: str | None = None) -> None:
    """Raises TakenOverError if another start, or another rank 0 of the same one, owns the lease now."""
    try:
        holder = read_holder(path)
        is_lost = path.parent.is_dir() if holder is None else holder.token != token
    except OSError:  # the file server is away, also for a start that might have taken over; a later look is enough
        return
    if writer is not None and holder is not None and (holder.writer is None or holder.writer.token != writer):
        is_lost = True
    if is_lost:
        taker = f"another start, {holder}," if holder else "another start, which has finished,"
        raise TakenOverError(
            f"{path.parent}: {taker} took over this run directory (it believed this one dead); "
            "exiting without another checkpoint"
        )


def is_of_another_start(path: Path, token: str | None, start: str | None) -> bool:
    """Whether a start that is not dead owns the lease, and is not the one with this token, or this `start`."""
    holder = read_holder(path)
    if holder is None or holder.is_dead():
        return False
    return holder.token != token if token is not None else holder.start is None or holder.start != start


def owner_seen_alive(path: Path, within_s: float = 2 * BEAT_S) -> LeaseHolder | None:
    """The owner of the lease, if it is alive on this machine, or touches the lease within these seconds; else None.

    For commands that only prepare a later start.
    """
    until, beat = time.monotonic() + within_s, _touched(path)
    while (holder := read_holder(path)) is not None and not (dead := holder.is_dead()):
        if dead is False or _touched(path) != beat:
            return holder
        if beat is None or time.time() - beat / 1e9 > STALE_S or time.monotonic() > until:
            return None
        time.sleep(0.2)
    return None


def wait_for_lease(
    path: Path,
    job: str | None,
    *,
    patience_s: float = 0.0,
    say: Callable[[str], None] = _silent,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> LeaseHolder | None:
    """Returns once the lease may be taken, and from whom: None if nobody owns it.

    Raises CheckpointError if its owner is seen alive after `patience_s` seconds.
    """
    since, beat, is_announced = clock(), _touched(path), False
    while (holder := read_holder(path)) is not None:
        if job is not None and holder.job == job:
            return holder
        dead, waited_s = holder.is_dead(), clock() - since
        is_alive = dead is False or (dead is None and _touched(path) != beat)
        if dead or (not is_alive and waited_s >= STALE_S):
            return holder
        if is_alive and waited_s >= patience_s:
            raise run_dir_in_use(holder, path)
        if not is_announced and (is_alive or dead is None):
            is_announced = True
            what = "in case it is about to exit" if is_alive else f"up to {STALE_S:.0f} s to see whether it is alive"
            say(f"{path.parent} is owned by {holder}; waiting {what}")
        sleep(0.2 if is_alive else 1.0)
    return None


def _take(path: Path, me: LeaseHolder, wait: Callable[[], LeaseHolder | None]) -> None:
    """Makes `me` the owner, once `wait` allows it."""
    while not _create(path, me):
        dead = wait()
        if dead is None:
            continue
        with _succession(path, dead.token, me):
            holder = read_holder(path)
            if holder is not None and holder.token == dead.token:  # or somebody else was its successor meanwhile
                write_atomically(path, render_holder(me))
                return


@contextmanager
def _succession(path: Path, token: str, me: LeaseHolder) -> Iterator[None]:
    """Lets one process at a time replace, change or remove the owner with this token.

    The file that says so is a lease as well, which is taken in the same way: a process that died with it has a
    successor too. Raises CheckpointError if another process has it for longer than such a thing takes.
    """
    claim = path.with_name(f".{path.name}.{token}")
    _take(claim, me, lambda: wait_for_lease(claim, None, patience_s=SUCCESSION_S))
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)


def _create(path: Path, holder: LeaseHolder) -> bool:
    """Creates the lease with its whole content, unless there is one; returns whether it did."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    draft.write_text(render_holder(holder), encoding="utf-8")
    try:
        os.link(draft, path)
        return True
    except FileExistsError:
        return draft.stat().st_nlink == 2  # NFS may lose the answer to a request that it has granted
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES):
            raise
        return _create_without_link(path, holder)
    finally:
        draft.unlink(missing_ok=True)


def _create_without_link(path: Path, holder: LeaseHolder) -> bool:
    """The same on a file system without hard links; a reader may find the file empty for a moment (UNREADABLE)."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(render_holder(holder))
    except FileExistsError:
        return False
    return True


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
