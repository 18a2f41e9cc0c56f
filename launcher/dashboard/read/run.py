"""One run as the dashboard knows it: what was read of its directory, and read again when that has changed."""

import contextlib
import json
import os
import threading
import traceback
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from shardtune.launcher.dashboard.read.digest import SUMMED, Digest
from shardtune.launcher.dashboard.read.lines import parse_lines, step_line_in, without_most_steps
from shardtune.launcher.dashboard.read.metrics_file import MetricsFile, OverError, read_ends
from shardtune.launcher.dashboard.read.overview import Overview
from shardtune.launcher.dashboard.read.recipes import MOST_BYTES, flatten
from shardtune.launcher.runs.status import RunStatus
from shardtune.run_dir.events.line_file import open_regular
from shardtune.run_dir.files import CHECKPOINTS, CONFIG, METRICS, RESULTS

ENDS = 2**16
"""Bytes of both ends of a long file that are read at once; the rest is read in the background."""
AT_ONCE = 4 * ENDS
"""A file of this many bytes is read as a whole at once, and so is as much of one that has grown."""


class Run:
    """What is known of a run. `lock` guards all but `path`, `id` and `name`."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.id = run_id(path)
        self.lock = threading.RLock()
        self.status: RunStatus | None = None
        self.fault: str | None = None
        """Why its directory cannot be read; None if it can."""
        self.digest = Digest(is_whole=False)
        self.recipe: Mapping[str, Any] = {}
        self.num_checkpoints = 0
        self.overview = Overview()
        self._reader = Reader(path)
        self._config_seen: tuple[int, int] | None = None

    def has_changed(self) -> bool:
        """Whether metrics.jsonl has, since the last call; a file that is missing is as it was. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            return self._reader.has_changed()
        self.path.stat()  # raises if the directory is gone
        return False

    def look(self) -> bool:
        """Reads what is new, as much as can be read at once; returns whether the rest is still to be read."""
        with self.lock:
            try:
                num_unread = self._reader.num_unread()
                self.fault = None
                if num_unread <= AT_ONCE:
                    self._read_on()
                else:
                    self._read_ends()
                    return True
            except FileNotFoundError:
                pass  # not begun
            except OSError as error:
                self.fault = f"{METRICS} cannot be read: {error.strerror or error}"
            return False

    def read_all(self, is_over: Callable[[], bool]) -> None:
        """Reads the whole file, in the background: those who look meanwhile see the old numbers."""
        reader = Reader(self.path)
        try:
            reader.has_changed()
            reader.read(is_over)
        except (OSError, OverError):
            return  # the next look says so
        except Exception as error:  # a bug of ours must not end the thread that reads all other runs
            self.fault = f"a bug of shardtune: {type(error).__name__}: {error}"
            traceback.print_exc()
            return
        with self.lock:
            self._reader, self.digest, self.overview = reader, reader.digest, reader.overview

    def look_around(self) -> None:
        """Reads what may change without new events: the recipe, and how many checkpoints there are."""
        with self.lock:
            with contextlib.suppress(OSError):
                status = (self.path / CONFIG).stat()
                if (seen := (status.st_ino, status.st_mtime_ns)) != self._config_seen:
                    self._config_seen, self.recipe = seen, flatten(read_text(self.path / CONFIG, MOST_BYTES))
            self.num_checkpoints = len(checkpoint_steps(self.path))

    def _read_on(self) -> None:
        if not self.digest.is_whole:
            self._reader = Reader(self.path)
            self._reader.has_changed()
        self._reader.read(lambda: False)
        self.digest, self.overview = self._reader.digest, self._reader.overview

    def _read_ends(self) -> None:
        digest = Digest(is_whole=False)
        for data in read_ends(self.path / METRICS, ENDS):
            digest.add(parse_lines(without_most_steps(data), SUMMED), step_line_in(data))
        self.digest, self.overview = digest, Overview()


class Reader(MetricsFile):
    """The whole metrics.jsonl of a run, added up."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir / METRICS)
        self.digest, self.overview = Digest(), Overview()

    def read(self, is_over: Callable[[], bool]) -> None:
        """Takes what is new in the file, or all of one that was written anew. Raises OSError, OverError."""
        for block in self.blocks():
            if is_over():
                raise OverError
            if block.is_first:
                self.digest, self.overview = Digest(), Overview()
            last_step = step_line_in(block.data)
            lines = parse_lines(block.data, (*SUMMED, *self.overview.wanted(last_step)))
            self.digest.add(lines, last_step)
            self.overview.add(lines)
        self.overview.shrink()


def run_id(path: Path) -> str:
    """A name for a run that is safe in a URL: `lr-1e-5-2f5a90c1`."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in path.name).strip("-")[:40]
    return f"{plain or 'run'}-{sha256(os.fsencode(path)).hexdigest()[:10]}"


def read_text(path: Path, most_bytes: int) -> str:
    """The text of a file, without what is beyond `most_bytes`. Raises OSError."""
    descriptor = open_regular(path)
    try:
        return os.pread(descriptor, most_bytes, 0).decode("utf-8", "replace")
    finally:
        os.close(descriptor)


def read_json(path: Path, most_bytes: int = 2**24) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is none, or it is damaged."""
    try:
        value = json.loads(read_text(path, most_bytes))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_results(run_dir: Path) -> dict[str, Any] | None:
    """The results of a finished run; None without any."""
    return read_json(run_dir / RESULTS)


def checkpoint_steps(run_dir: Path) -> list[int]:
    """The steps of the checkpoints that are there, in order."""
    try:
        names = [path.name.removeprefix("step-") for path in (run_dir / CHECKPOINTS).glob("step-*")]
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdecimal())
