"""Looks at the watched runs in a thread of its own, because a file server or Slurm may be slow: what is read when, so
that an idle run costs next to nothing."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shardtune.errors import LaunchError
from shardtune.launcher.runs.monitor import PATIENCE_S
from shardtune.launcher.runs.status import short_names
from shardtune.launcher.runs.terminal.output_tail import OutputTail
from shardtune.launcher.runs.terminal.watched_run import WatchedRun, mtime
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.text import QueuedJob
from shardtune.run_dir.files import METRICS

POLL_S = 1.0
BUSY_POLL_S = 0.05
"""Between two rounds while long files, or many runs, are being read."""
READ_OLD_S = 0.3
"""Seconds of a round in which older events are read."""
LOOK_S, LOOK_AGAIN_S, FIND_S = 2.0, 10.0, 10.0
"""How often the status of a run that is going on, that of another one, and the list of runs is looked at again."""
LOOKS_PER_S, LOOKS_PER_ROUND = 10, 20
SMALL_BYTES = 2**22
"""The events of longer files are read only if their run is going on, chosen or marked."""


class Poller:
    """The watched runs, kept up to date. What the screen reads of them it reads with `lock` held."""

    def __init__(self, find: Callable[[Sequence[QueuedJob]], list[Path]], *, is_fixed: bool) -> None:
        """`find` gives the run directories to watch; with `is_fixed` they stay the same, and in this order."""
        self.lock = threading.RLock()
        self.runs: list[WatchedRun] = []
        self.version = 0
        """Raised when there is something new to show."""
        self.is_settled = False
        """Whether each run has been looked at, so that their order is known."""
        self.notice: str | None = None
        """What went wrong with Slurm, if it does not answer."""
        self.failure: Exception | None = None
        """What ended the thread, which is a bug."""
        self.wanted: frozenset[Path] = frozenset()
        """The runs that the user looks at: chosen or marked."""
        self.output = OutputTail(self.lock)
        self._find, self._is_fixed = find, is_fixed
        self._find_at = self._jobs_at = 0.0
        self._jobs: list[QueuedJob] = []
        self._is_news = self._was_busy = self._is_stopped = False
        self._told_at = 0.0
        self._wake = threading.Event()

    def start(self) -> None:
        """Polls until `stop`, in a daemon thread: a hanging file server does not keep the program from ending."""
        threading.Thread(target=self._work, name="poller", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread after its round."""
        self._is_stopped = True
        self._wake.set()

    def hasten(self) -> None:
        """Begins the next round now."""
        self._wake.set()

    def _work(self) -> None:
        try:
            while not self._is_stopped:
                is_busy = self.round()
                self._wake.wait(BUSY_POLL_S if is_busy else POLL_S)
                self._wake.clear()
        except Exception as error:
            self.failure = error

    def round(self) -> bool:
        """Looks at what is due; returns whether more is left to be read at once."""
        now = time.monotonic()
        if now >= self._find_at and not (self._is_fixed and self.runs):
            self._find_at = now + FIND_S
            self._update_runs(now)
        changed = [run.follow() for run in self.runs if self._is_followed(run)]
        changed += [self._look(run, now) for run in self._due(now)]
        changed.append(self.output.read())
        self.is_settled = self.is_settled or all(run.is_looked_at for run in self.runs)
        is_busy = self._read_old() or not self.is_settled
        self._is_news = self._is_news or any(changed) or is_busy or self._was_busy
        self._was_busy = is_busy
        if self._is_news and (now - self._told_at >= POLL_S or not is_busy):
            self._is_news, self._told_at = False, now
            self.version += 1
        return is_busy

    def _is_followed(self, run: WatchedRun) -> bool:
        return run.is_going_on or run.run_dir in self.wanted

    def _update_runs(self, now: float) -> None:
        self._ask_queue(now)
        known = {run.run_dir: run for run in self.runs}
        found = self._find(self._jobs)
        if not self._is_fixed:
            found += [run_dir for run_dir in self.wanted if run_dir not in found and run_dir in known]
        runs = [known.get(run_dir) or WatchedRun(run_dir, self.lock) for run_dir in found]
        for run, name in zip(runs, short_names(found), strict=True):
            run.name = name
        with self.lock:
            self.runs = runs
        self._order()
        self._is_news = True

    def _order(self) -> None:
        """Those going on first, then the newest first; given ones stay in their order."""
        if self._is_fixed:
            return
        newest = {run: run.stamp[0] if run.stamp else mtime(run.run_dir / METRICS) for run in self.runs}
        ordered = sorted(self.runs, key=lambda run: (not run.is_going_on, -newest[run]))
        with self.lock:
            self.runs = ordered

    def _due(self, now: float) -> list[WatchedRun]:
        """The runs whose status is to be looked at in this round, the most urgent first."""
        queued = {Path(job.comment) for job in self._jobs if job.comment}
        due: list[WatchedRun] = []
        for run in sorted((run for run in self.runs if run.look_at <= now), key=lambda run: run.look_at):
            if len(due) == LOOKS_PER_ROUND:
                break
            is_new = run.is_stamped_anew() or not run.is_looked_at or run.problem is not None
            if is_new or run.is_going_on or run.run_dir in queued:
                due.append(run)
            else:
                run.look_at = now + LOOK_AGAIN_S
        return due

    def _look(self, run: WatchedRun, now: float) -> bool:
        """Looks at the status of a run; returns whether there is news."""
        was_going_on, notice, changed = run.is_going_on, self.notice, False
        self._ask_queue(now)
        try:
            changed = run.look(self._jobs)
        except LaunchError as error:  # Slurm's controller is restarting or overloaded
            self.notice, run.is_looked_at = str(error), True
        num_going_on = sum(run.is_going_on for run in self.runs)
        often = max(LOOK_S, num_going_on / LOOKS_PER_S)
        run.look_at = now + (often if run.is_going_on or run.problem else LOOK_AGAIN_S)
        if run.run_dir in self.wanted:
            run.look_at = min(run.look_at, now + LOOK_S)
            run.find_outputs()
        if was_going_on != run.is_going_on:
            run.follow()
            self._order()
        return changed or notice != self.notice

    def _ask_queue(self, now: float) -> None:
        """Asks Slurm for the user's jobs, if that was not done just now."""
        if now < self._jobs_at:
            return
        self._jobs_at = now + LOOK_S
        try:
            self._jobs, self.notice = cluster.queued_jobs(), None
        except LaunchError as error:
            self.notice, self._jobs_at = str(error), now + PATIENCE_S

    def _read_old(self) -> bool:
        """Reads older events for a while, first of what the user looks at; returns whether some are left."""
        until = time.monotonic() + READ_OLD_S
        waiting = [
            run for run in self.runs if run.is_looked_at and (not run.is_read or run.reader.progress is not None)
        ]
        waiting.sort(key=lambda run: (run.run_dir not in self.wanted, not run.is_going_on))
        for run in waiting:
            if not self._is_followed(run) and run.size > SMALL_BYTES:
                continue
            if time.monotonic() > until or self._is_stopped:
                return True
            if not run.is_read:
                run.follow()
            while run.reader.read_old():
                if time.monotonic() > until or self._is_stopped:
                    return True
        return False
