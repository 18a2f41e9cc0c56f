"""A rank that makes no progress writes where each of its threads stands, and ends: a scheduler can then start it anew.

faulthandler's clock is not Python's: it also runs out while a thread is stuck in a collective, or never lets go of the
interpreter.
"""

import contextlib
import faulthandler
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trainer.config.run_dir import alive_path, stacks_path

TOUCH_S = 1.0
"""Between two touches of the file that others see the heartbeat by."""


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

    def beat(self) -> None:
        faulthandler.dump_traceback_later(self._hang_s, file=self._stacks, exit=True)
        if (now := time.monotonic()) - self._touched > TOUCH_S:
            self._touched = now
            with contextlib.suppress(OSError):  # a full disk is the checkpoints' to say
                self._heartbeat.touch()


_watch: _Watch | None = None


def beat() -> None:
    """This process has come a step further; takes some 50 µs. Does nothing while nobody watches."""
    if _watch is not None:
        _watch.beat()


@contextmanager
def watching(run_dir: Path, rank: int, hang_s: float | None) -> Iterator[None]:
    """While this lasts, the process has to beat at least every hang_s seconds."""
    global _watch
    if hang_s is None:
        yield
        return
    path = stacks_path(run_dir, rank)
    with path.open("a", encoding="utf-8") as stacks:  # opened now: who hangs may have no descriptor left
        heartbeat = _Heartbeat(alive_path(run_dir, rank))
        _watch = _Watch(stacks, heartbeat, hang_s)
        _watch.beat()
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            _watch = None
            if os.fstat(stacks.fileno()).st_size == 0 and not heartbeat.is_replaced():
                path.unlink(missing_ok=True)
            heartbeat.close()
