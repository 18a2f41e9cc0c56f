"""What a run directory tells about its run: new events, checkpoints, failures, hangs and heartbeats of ranks."""

import contextlib
import json
import math
import os
import re
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from shardtune.run_dir.events.line_file import LineFile
from shardtune.run_dir.files import CHECKPOINTS, METRICS, alive_path, events_in, failure_path, stacks_path

STEP = b'{"event": "step"'
"""The begin of a line about a step (trainer/reporting/reporter.py)."""
TIME = re.compile(rb'"time": ([0-9.]+)')


class Events:
    """The events written since a moment; a resumed run may rewrite the file in between.

    Only those that are there at the first look are judged by their times: a clock may go back while a run writes.
    """

    def __init__(self, run_dir: Path, since: float) -> None:
        self._file = LineFile(run_dir / METRICS)
        self._since = since
        self._has_looked = False
        self._seen = array("Q")
        """Hashes of the lines that were read, by which those of a rewritten file are known."""

    def new(self) -> Iterator[dict[str, Any]]:
        """The events that were written since the last call, in order; lines that are no events are skipped."""
        old: set[int] = set()
        try:
            for block in self._file.blocks():
                is_first_look = not self._has_looked
                if block.is_first:
                    old, self._seen = set(self._seen), array("Q")
                for line in block.lines():
                    self._seen.append(xxhash.xxh3_64_intdigest(line))
                    if self._seen[-1] not in old and not (is_first_look and _time(line) <= self._since):
                        yield from events_in([line])
            self._has_looked = True
        except FileNotFoundError:
            return


def _time(line: bytes) -> float:
    """The time of the event in this line, without parsing all of it."""
    found = TIME.search(line, 0, 200)
    return float(found[1]) if found is not None else math.inf


def outer_events(run_dir: Path, num_bytes: int = 2**16) -> list[dict[str, Any]]:
    """The first and the newest events, in order; of a long run only those at both ends of the file.

    Those at its end begin before the newest step, however long the lines after it are.
    """
    try:
        file = (run_dir / METRICS).open("rb")
    except FileNotFoundError:
        return []
    with file:
        size, reach = file.seek(0, os.SEEK_END), num_bytes
        while True:
            begin = size - reach if size - reach > num_bytes else 0
            tail = _lines(file, begin, size)
            if begin == 0:
                return events_in(tail)
            if any(line.startswith(STEP) for line in tail[1:]):
                return events_in(_lines(file, 0, num_bytes)) + events_in(tail[1:])
            reach *= 4


def _lines(file: BinaryIO, begin: int, end: int) -> list[bytes]:
    """The lines in this part of the file, the first of which may lack its begin; without an incomplete last one."""
    file.seek(begin)
    lines = file.read(end - begin).split(b"\n")
    return lines[:-1]


def failures_since(run_dir: Path, since: float) -> list[dict[str, Any]]:
    """What the ranks that failed since then recorded, the first one first."""
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in failure_path(run_dir, "*").parent.glob(failure_path(run_dir, "*").name)
    ]
    return sorted((record for record in records if record["time"] >= since), key=lambda record: float(record["time"]))


def first_failure(run_dir: Path, since: float) -> dict[str, Any] | None:
    """What the first rank that failed since then recorded; None if no rank did."""
    return next(iter(failures_since(run_dir, since)), None)


def newest_saved(run_dir: Path) -> int:
    """The step of the newest complete checkpoint, whatever its files hold; 0 if there is none."""
    names = [path.name.removeprefix("step-") for path in (run_dir / CHECKPOINTS).glob("step-*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def hung_ranks(run_dir: Path, since: float) -> list[Path]:
    """The files with the stack traces of ranks that were found hanging since then."""
    paths = sorted(stacks_path(run_dir, "*").parent.glob(stacks_path(run_dir, "*").name))
    return [path for path in paths if path.stat().st_size and path.stat().st_mtime >= since]


class Heartbeats:
    """How long no rank has made progress, by this process's own clock: that of a file server may differ."""

    def __init__(self, run_dir: Path, *, every_s: float = 0.0) -> None:
        """The file server is asked at most every `every_s` seconds."""
        self._pattern = alive_path(run_dir, "*")
        self._every_s = every_s
        self._newest = self._look()
        self._since = time.monotonic()

    def silence_s(self) -> float:
        """Seconds since the last heartbeat that was seen."""
        if time.monotonic() - self._looked < self._every_s:
            return time.monotonic() - self._since
        newest = self._look()
        if newest != self._newest:
            self._newest, self._since = newest, time.monotonic()
        return time.monotonic() - self._since

    def _look(self) -> int:
        self._looked = time.monotonic()
        newest = 0
        for path in self._pattern.parent.glob(self._pattern.name):
            with contextlib.suppress(FileNotFoundError):  # a rank that has joined the others just now
                newest = max(newest, path.stat().st_mtime_ns)
        return newest
