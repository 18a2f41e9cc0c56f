"""A rank that makes no progress writes where each of its threads stands, and ends: a scheduler can then start it anew.

faulthandler's clock is not Python's: it also runs out while a thread is stuck in a collective, or never lets go of the
interpreter.
"""

import contextlib
import faulthandler
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trainer.config.run_dir import alive_path, stacks_path

TOUCH_S = 1.0
"""Between two touches of the file that others see the heartbeat by."""


class _Watch:
    """The one of this process, for faulthandler has no more."""

    def __init__(self, stacks: IO[str], alive: Path, hang_s: float) -> None:
        self._stacks = stacks
        self._alive = alive
        self._hang_s = hang_s
        self._touched = float("-inf")

    def beat(self) -> None:
        faulthandler.dump_traceback_later(self._hang_s, file=self._stacks, exit=True)
        if (now := time.monotonic()) - self._touched > TOUCH_S:
            self._touched = now
            with contextlib.suppress(OSError):  # a full disk is the checkpoints' to say
                self._alive.touch()


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
        _watch = _Watch(stacks, alive_path(run_dir, rank), hang_s)
        _watch.beat()
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            _watch = None
            if os.fstat(stacks.fileno()).st_size == 0:
                path.unlink(missing_ok=True)
