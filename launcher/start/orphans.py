"""Finds and ends what a start has left behind: processes that have its mark in their environment."""

import contextlib
import os
import signal
import time
from pathlib import Path

START_MARK = "SHARDTUNE_START"
"""The variable by which the processes of a start are known."""
GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""


def end_left_behind(mark: str) -> None:
    """Makes sure that no process of a start outlives it.

    torchrun (2.13) gives each rank a session of its own, and does not take it along when it is killed: such a rank
    would train on, or hang on, and keep its memory and the run directory from the next start.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + GRACE_S
        while _marked(mark) and time.monotonic() < until:
            time.sleep(0.05)


def _marked(mark: str) -> list[int]:
    """The processes that have this mark in their environment, and are no zombies."""
    word = f"{START_MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or gone by now
            if word in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
