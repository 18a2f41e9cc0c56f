"""Follows the run directories under a folder: which there are, which of their files have grown, and their states.

Files are looked at again and again: notices of the kernel do not reach the other machines of a network file system.
"""

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shardtune.launcher.dashboard.read.find_runs import DEFAULT, find_runs
from shardtune.launcher.dashboard.read.run import Run
from shardtune.launcher.dashboard.slurm_view import SlurmView
from shardtune.launcher.dashboard.states import NOT_ANSWERED, status_of_run

POLL_S, FIND_S, STATES_S = 0.5, 3.0, 10.0
"""Between two looks at the files that are known, two searches for runs, and two looks at all states."""
BUSY = 0.25
"""On a slow file system the thread pauses so long that it is busy for at most this part of the time."""
STOP_S = 0.5
"""How long the end of a thread is waited for."""
KEPT = 1000
"""Changes that are remembered for pages that were away for a while."""


@dataclass(frozen=True)
class Change:
    """What a new version of the table differs by, as ids of runs."""

    version: int
    changed: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()


@dataclass
class _Rhythm:
    """When something that takes a while is to be done again."""

    every_s: float
    due: float = 0.0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        self.due = time.monotonic() + max(self.every_s, took / BUSY)

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self.due


@dataclass
class Watch:
    """All runs under `root`, or by default those that `shardtune status` knows."""

    root: Path | None
    slurm: SlurmView = field(init=False)
    version: int = 0
    _runs: dict[str, Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slurm = SlurmView()
        self._changes: deque[Change] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._unread: dict[str, Run] = {}
        """Runs with a long file of which both ends were read."""
        self._urgent: set[str] = set()
        """Ids of those that a page waits for."""
        self._has_unread = threading.Event()
        self._is_ready = threading.Event()
        works = (self._follow, self._read_long_files)
        self._threads = [threading.Thread(target=work, name=work.__name__, daemon=True) for work in works]

    @property
    def place(self) -> Path:
        """The folder that names of runs are relative to."""
        return self.root if self.root is not None else DEFAULT.absolute()

    def runs(self) -> list[Run]:
        """All runs, by path."""
        return list(self._runs.values())

    def run(self, name: str) -> Run | None:
        """The run with this id."""
        return self._runs.get(name)

    def start(self, patience_s: float) -> None:
        """Begins to follow; returns when all runs were looked at once, or `patience_s` has passed."""
        self.slurm.start()
        for thread in self._threads:
            thread.start()
        self._is_ready.wait(patience_s)

    def stop(self) -> None:
        """Ends the threads, without waiting long for one that a file system holds up."""
        self._is_over.set()
        self._has_unread.set()
        self.slurm.stop()
        for thread in self._threads:
            thread.join(STOP_S)

    def hurry(self, run: Run) -> None:
        """Has the file of a run read next."""
        with self._lock:
            self._urgent.add(run.id)

    def since(self, version: int) -> Change:
        """All that has changed since a version."""
        with self._lock:
            later = [change for change in self._changes if change.version > version]
            return Change(
                self.version,
                frozenset().union(*(change.changed for change in later)),
                frozenset().union(*(change.added for change in later)),
                frozenset().union(*(change.gone for change in later)),
            )

    def _follow(self) -> None:
        find, poll, states = _Rhythm(FIND_S), _Rhythm(POLL_S), _Rhythm(STATES_S)
        while not self._is_over.is_set():
            changed: set[str] = set()
            if find.is_due:
                with find.timed():
                    self._find()
            if poll.is_due:
                with poll.timed():
                    changed |= self._poll() | self._look_again()
            if states.is_due:
                with states.timed():
                    changed |= self._look_at_states()
            self._note(changed)
            self._is_ready.set()
            self._is_over.wait(POLL_S / 2)

    def _find(self) -> None:
        """Takes the runs that are new, and forgets those that are gone."""
        paths = find_runs(self.root, self.slurm.folders)
        known = {run.path: run for run in self._runs.values()}
        vanished = known.keys() - set(paths)
        self.slurm.forget(vanished)
        runs = [known.get(path) or Run(path, _name(path, self.place)) for path in paths]
        self._runs = {run.id: run for run in runs}
        added = [run for run in runs if run.path not in known]
        self._note((), {run.id for run in added}, {known[path].id for path in vanished})
        for run in added:
            if self._is_over.is_set():
                return
            self._look(run)
        self._note({run.id for run in added})

    def _look(self, run: Run) -> None:
        try:
            with contextlib.suppress(OSError):
                run.has_changed()
            if run.look():
                self._read_later(run)
            run.look_around()
            run.status = status_of_run(run, self.slurm)
        except Exception as error:  # a bug of ours must not end the thread that follows all other runs
            run.fault = f"a bug of shardtune: {type(error).__name__}: {error}"
            traceback.print_exc()

    def _poll(self) -> set[str]:
        """Reads the files that have changed; returns the ids of their runs."""
        changed = set()
        for run in self.runs():
            try:
                if not run.has_changed():
                    continue
            except OSError as error:
                if run.fault is not None:
                    continue
                run.fault = f"{run.path} cannot be read: {error.strerror}"
            self._look(run)
            changed.add(run.id)
        return changed

    def _look_at_states(self) -> set[str]:
        """Looks at the states of all runs; returns the ids of those that have changed."""
        changed = set()
        for run in self.runs():
            before = run.num_checkpoints
            run.look_around()
            if self._has_new_state(run) or run.num_checkpoints != before:
                changed.add(run.id)
        return changed

    def _look_again(self) -> set[str]:
        """Looks at the states that Slurm had not told yet; returns the ids of those that have changed."""
        waiting = [run for run in self.runs() if run.status is not None and run.status.why == NOT_ANSWERED]
        return {run.id for run in waiting if self._has_new_state(run)}

    def _has_new_state(self, run: Run) -> bool:
        before, run.status = run.status, status_of_run(run, self.slurm)
        return run.status != before

    def _note(self, changed: Collection[str], added: Collection[str] = (), gone: Collection[str] = ()) -> None:
        if changed or added or gone:
            with self._lock:
                self.version += 1
                self._changes.append(Change(self.version, *map(frozenset, (changed, added, gone))))

    def _urgency(self, run: Run) -> tuple[bool, float]:
        return run.id in self._urgent, run.digest.last_time or 0.0

    def _read_later(self, run: Run) -> None:
        with self._lock:
            self._unread[run.id] = run
        self._has_unread.set()

    def _read_long_files(self) -> None:
        """Reads the files that are too long to be read at once, one after another, the newest first."""
        self._is_ready.wait()
        while not self._is_over.is_set():
            with self._lock:
                run = max(self._unread.values(), key=self._urgency, default=None)
                if run is None:
                    self._has_unread.clear()
                else:
                    del self._unread[run.id]
                    self._urgent.discard(run.id)
            if run is None:
                self._has_unread.wait()
                continue
            run.read_all(self._is_over.is_set)
            self._note({run.id})


def _name(path: Path, root: Path) -> str:
    """The path of a run below the folder."""
    with contextlib.suppress(ValueError):
        relative = path.relative_to(root)
        return str(relative) if relative.parts else path.name
    return str(path)
