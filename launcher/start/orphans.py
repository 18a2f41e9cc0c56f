"""Finds and ends the processes that outlive the start they belong to: those with its mark in their environment."""

import contextlib
import os
import signal
import time
from pathlib import Path

START_MARK = "SHARDTUNE_START"
"""The environment variable that identifies the processes of a start."""
GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL."""


def end_orphans(mark: str) -> None:
    """Makes sure that no process of a start outlives it.

    torchrun (2.13) gives each rank a session of its own and does not end the ranks when it is killed: such a rank
    would train on, or hang, and keep its memory and the run directory from the next start.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + GRACE_S
        while _marked(mark) and time.monotonic() < until:
            time.sleep(0.05)


def _marked(mark: str) -> list[int]:
    """The ids of the processes that have this mark in their environment, without zombies."""
    word = f"{START_MARK}={mark}".encode()
    pids = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's process, or one that has ended meanwhile
            if word in path.read_bytes().split(b"\0"):
                pids.append(int(path.parent.name))
    return pids
