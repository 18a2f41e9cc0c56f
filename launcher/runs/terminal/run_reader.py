"""The history of one run, read in the order in which it is wanted: the newest events at once, all of them soon."""

from pathlib import Path
from threading import RLock

from shardtune.run_dir.events.line_file import BLOCK_BYTES
from shardtune.run_dir.events.metrics_file import MetricsFile, NewEvents
from shardtune.run_dir.files import METRICS
from shardtune.run_dir.follow.history import RunHistory

TAIL_BYTES = 2**19
HEAD_BYTES = 2**16
OF_THE_HEAD = ("begin", "start")
"""Events that tell, at the head of a long file, what is trained."""


class RunReader:
    """Reads the metrics.jsonl of a run. `lock` is held while its history changes."""

    def __init__(self, run_dir: Path, lock: RLock) -> None:
        self._path = run_dir / METRICS
        self._lock = lock
        self.exists = True
        self._begin()

    def _begin(self) -> None:
        self.history = RunHistory()
        self._file = MetricsFile(self._path, tail_bytes=TAIL_BYTES)
        self._is_opened = False
        self._whole: tuple[MetricsFile, RunHistory] | None = None

    @property
    def progress(self) -> float | None:
        """How much of the file the history is of, from 0 to 1; None if it is of all of it."""
        return None if self._whole is None else self._whole[0].progress

    def read_new(self) -> bool:
        """Takes the newest events; returns whether anything has changed."""
        new = self._file.read() if self._is_opened else self._open()
        changed, self.exists = self.exists != new.exists, new.exists
        if new.begins_anew:
            with self._lock:
                self._begin()
            new, changed = self._open(), True
        while True:
            with self._lock:
                self.history.add_all(new.events)
                self.history.num_damaged += new.num_damaged
            changed = changed or bool(new.events or new.num_damaged)
            if not new.is_behind:
                return changed
            new = self._file.read()
            if new.begins_anew:  # just now: the next call opens it again
                with self._lock:
                    self._begin()
                return True

    def read_old(self, max_bytes: int = BLOCK_BYTES) -> bool:
        """Takes a chunk of the older events of a long file; returns whether more are left."""
        if self._whole is None:
            return False
        file, history = self._whole
        new = file.read(max_bytes)
        if not new.exists or new.begins_anew:
            return False  # read_new will see it
        history.add_all(new.events)
        history.num_damaged += new.num_damaged
        if new.is_behind:
            return True
        with self._lock:
            self._file, self.history, self._whole = file, history, None
        return False

    def _open(self) -> NewEvents:
        """The first read of a file, after which the history has the run's beginning too."""
        new = self._file.read()
        self._is_opened = new.exists
        if self._file.skipped_head:
            self._whole = MetricsFile(self._path), RunHistory()
            head = MetricsFile(self._path).read(HEAD_BYTES).events
            with self._lock:
                self.history.add_all(event for event in head if event["event"] in OF_THE_HEAD)
        return new
