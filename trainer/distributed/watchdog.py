"""A rank that makes no progress writes the stacks of its threads and exits, so that a scheduler can restart the job.

faulthandler's timer is not Python's: it also expires while a thread is stuck in a collective, or never releases the
interpreter. The other ranks of a start, whose timers may have begun later, write their stacks as soon as one has.
"""

import contextlib
import faulthandler
import os
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shardtune.run_dir.files import alive_path, open_in_place, stacks_path

TOUCH_S = 1.0
"""Seconds between two touches of the file by which others see the heartbeat."""
LOOK_S = 1.0
"""Seconds between two looks at the other ranks' stacks, by a rank that waits: torchrun gives the ranks 30 seconds after
the first has ended."""


class _Heartbeat:
    """A file that is touched while there is progress.

    A later start replaces it by its own: an earlier start that is believed dead but alive then touches a file that is
    in no folder any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        self._file = draft.open("x")
        draft.replace(path)

    def touch(self) -> None:
        os.utime(self._file.fileno())

    @property
    def began(self) -> float:
        """When the file was last touched, by the clock of the file server."""
        return os.fstat(self._file.fileno()).st_mtime

    def is_replaced(self) -> bool:
        """Whether a later start has replaced the file."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            return True

    def close(self) -> None:
        self._file.close()


class _Watch:
    """The only watch of this process, because faulthandler has one timer."""

    def __init__(self, stacks: IO[str], heartbeat: _Heartbeat, hang_s: float) -> None:
        self._stacks = stacks
        self._heartbeat = heartbeat
        self._hang_s = hang_s
        self._touched = float("-inf")
        self._beaten = time.monotonic()

    def beat(self) -> None:
        faulthandler.dump_traceback_later(self._hang_s, file=self._stacks, exit=True)
        self._beaten = now = time.monotonic()
        if now - self._touched > TOUCH_S:
            self._touched = now
            with contextlib.suppress(OSError):  # a full disk is reported by the checkpoints
                self._heartbeat.touch()

    @property
    def is_waiting(self) -> bool:
        """Whether there was no progress for so long that another rank may hang; until then the disk is not read."""
        return time.monotonic() - self._beaten > self._hang_s / 10


class _Peers:
    """The stacks that other ranks of this start have written."""

    def __init__(self, run_dir: Path, own: Path, began: float) -> None:
        self._pattern = stacks_path(run_dir, "*")
        self._own = own
        self._began = began

    def hang(self) -> bool:
        """Whether one of them has written its stacks."""
        with contextlib.suppress(OSError):
            for path in self._pattern.parent.glob(self._pattern.name):
                if path != self._own and (status := path.stat()).st_size and status.st_mtime >= self._began:
                    return True
        return False


_watch: _Watch | None = None


def beat() -> None:
    """Reports progress of this process; takes some 50 µs. No effect while nothing is watched."""
    if _watch is not None:
        _watch.beat()


@contextmanager
def watching(run_dir: Path, rank: int, hang_s: float | None, *, joining: bool = False) -> Iterator[None]:
    """Requires a beat at least every hang_s seconds while this lasts; 0 and None watch nothing.

    `joining`: the run directory may still belong to another start, whose files are left untouched.
    """
    global _watch
    if not hang_s:
        yield
        return
    name = f"{rank}-joining" if joining else rank
    path = stacks_path(run_dir, name)
    with open_in_place(path, "a") as stacks:  # opened now: a process that hangs may have no descriptor left
        heartbeat = _Heartbeat(alive_path(run_dir, name))
        peers = _Peers(run_dir, path, heartbeat.began)
        _watch = watch = _Watch(stacks, heartbeat, hang_s)
        is_over = threading.Event()
        _watch.beat()
        looking = threading.Thread(target=_look, args=(watch, peers, stacks, is_over), name="watchdog", daemon=True)
        looking.start()
        try:
            yield
        except BaseException:
            # A rank connected to the one that hangs fails as soon as that one exits, and torchrun ends the others.
            if peers.hang():
                stacks.write(traceback.format_exc())
                stacks.flush()
                faulthandler.dump_traceback(stacks)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
            _watch = None
            is_over.set()
            looking.join()
            if not heartbeat.is_replaced():
                if os.fstat(stacks.fileno()).st_size == 0:
                    path.unlink(missing_ok=True)
                if joining:
                    alive_path(run_dir, name).unlink(missing_ok=True)
            heartbeat.close()


def _look(watch: _Watch, peers: _Peers, stacks: IO[str], is_over: threading.Event) -> None:
    """Writes the stacks of this process once, if it waits and another rank has written that it hangs."""
    while not is_over.wait(LOOK_S):
        if watch.is_waiting and peers.hang():
            faulthandler.dump_traceback(stacks)
            return
