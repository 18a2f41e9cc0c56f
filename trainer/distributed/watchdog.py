"""A rank that makes no progress writes where each of its threads stands, and ends: a scheduler can then start it anew.

faulthandler's clock is not Python's: it also runs out while a thread is stuck in a collective, or never lets go of the
interpreter. The other ranks of a start, whose clocks may have begun later, say where they stand as soon as one has.
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

from shardtune.run_dir.files import alive_path, stacks_path

TOUCH_S = 1.0
"""Between two touches of the file that others see the heartbeat by."""
LOOK_S = 1.0
"""Between two looks at what the other ranks say, by a rank that waits: torchrun gives them 30 seconds after the first
has ended."""


class _Heartbeat:
    """A file that is touched while there is progress.

    A later start puts one of its own in its place: what an earlier one touches, that is believed dead and lives on, is
    then in no folder any more.
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
        """When its file was touched last, by the clock of whoever keeps the files."""
        return os.fstat(self._file.fileno()).st_mtime

    def is_replaced(self) -> bool:
        """Whether there is a later start."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            return True

    def close(self) -> None:
        self._file.close()


class _Watch:
    """The one of this process, for faulthandler has no more."""

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
            with contextlib.suppress(OSError):  # a full disk is the checkpoints' to say
                self._heartbeat.touch()

    @property
    def is_waiting(self) -> bool:
        """Whether there was no progress for so long that another rank may hang: until then, nobody asks the disk."""
        return time.monotonic() - self._beaten > self._hang_s / 10


class _Peers:
    """What the other ranks of this start say."""

    def __init__(self, run_dir: Path, own: Path, began: float) -> None:
        self._pattern = stacks_path(run_dir, "*")
        self._own = own
        self._began = began

    def hang(self) -> bool:
        """Whether one of them has said where it stands."""
        with contextlib.suppress(OSError):
            for path in self._pattern.parent.glob(self._pattern.name):
                if path != self._own and (its := path.stat()).st_size and its.st_mtime >= self._began:
                    return True
        return False


_watch: _Watch | None = None


def beat() -> None:
    """This process has come a step further; takes some 50 µs. Does nothing while nobody watches."""
    if _watch is not None:
        _watch.beat()


@contextmanager
def watching(run_dir: Path, rank: int, hang_s: float | None, *, joining: bool = False) -> Iterator[None]:
    """While this lasts, the process has to beat at least every hang_s seconds; 0 and None watch nothing.

    `joining` is for as long as the run directory may be another start's, whose files are left alone.
    """
    global _watch
    if not hang_s:
        yield
        return
    name = f"{rank}-joining" if joining else rank
    path = stacks_path(run_dir, name)
    with path.open("a", encoding="utf-8") as stacks:  # opened now: who hangs may have no descriptor left
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
            # Whoever is connected to the one that hangs learns of its end at once, and torchrun ends the others.
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
    """Says once where each thread of this process stands, when it waits and another rank has said that it hangs."""
    while not is_over.wait(LOOK_S):
        if watch.is_waiting and peers.hang():
            faulthandler.dump_traceback(stacks)
            return
