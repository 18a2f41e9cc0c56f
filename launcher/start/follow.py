"""What a run directory tells about its run: new events, checkpoints, failures, hangs and heartbeats of ranks."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardtune.run_dir.files import CHECKPOINTS, METRICS, alive_path, failure_path, stacks_path
from shardtune.run_dir.follow.metrics_file import parse_events


class Events:
    """The events written since a moment; a resumed run may rewrite the file in between."""

    def __init__(self, run_dir: Path, since: float) -> None:
        self._path = run_dir / METRICS
        self._since = since
        self._file_id: tuple[int, int] | None = None
        self._offset = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The events that were written since the last call, in order."""
        try:
            with self._path.open("rb") as file:
                file_id = (self._path.stat().st_dev, self._path.stat().st_ino)
                if file_id != self._file_id:
                    self._file_id, self._offset = file_id, 0
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # still being written
                    self._offset += len(line)
                    for event in parse_events([line]):
                        if event["time"] > self._since:
                            self._since = event["time"] - 0.001  # times have milliseconds; events may share one
                            yield event
        except FileNotFoundError:
            return


def outer_events(run_dir: Path, num_bytes: int = 2**16) -> list[dict[str, Any]]:
    """The first and the newest events, in order; of a long run only those at both ends of the file."""
    try:
        with (run_dir / METRICS).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(num_bytes).splitlines(keepends=True)
            file.seek(max(num_bytes, size - num_bytes))
            tail = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    if not tail:
        lines = head
    elif size <= 2 * num_bytes:
        lines = b"".join(head + tail).splitlines(keepends=True)
    else:
        lines = head[:-1] + tail[1:]
    return parse_events([line for line in lines if line.endswith(b"\n")])


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
