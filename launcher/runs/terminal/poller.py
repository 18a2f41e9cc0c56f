"""Looks at the watched runs in a thread of its own, because a file server or Slurm may be slow: what is read when, so
that an idle run costs next to nothing."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shardtune.errors import LaunchError, ShardtuneError
from shardtune.launcher.runs import monitor
from shardtune.launcher.runs.status import RunStatus, short_names
from shardtune.launcher.runs.terminal.run_reader import RunReader
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.text import QueuedJob
from shardtune.recipe.yaml_lines import YamlError, read_yaml
from shardtune.run_dir.files import CONFIG, LEASE, METRICS, RESULTS

POLL_S = 1.0
BUSY_POLL_S = 0.05
"""Between two rounds while a long file is being read."""
READ_OLD_S = 0.3
"""Seconds of a round in which older events are read."""
LOOK_S, LOOK_AGAIN_S, FIND_S = 2.0, 10.0, 10.0
"""How often the status of a run that is going on, that of another one, and the list of runs is looked at again."""
LOOKS_PER_ROUND = 20
OUTPUT_BYTES = 2**16
SMALL_BYTES = 2**23
"""Files of more bytes are read whole only if their run is going on, chosen or marked."""
STAMPED = (METRICS, LEASE, RESULTS, "status.json", "submission.json")
"""Files of which one changes when a run that has ended begins again, or is found to have ended."""


UNKNOWN = "…"
"""The state of a run that was not looked at yet."""


class WatchedRun:
    """What is known of one run."""

    def __init__(self, run_dir: Path, lock: threading.RLock) -> None:
        self.run_dir = run_dir
        self.name = run_dir.name
        self.status: RunStatus | None = None
        self.problem: str | None = None
        """Why the status could not be read the last time; None if it could."""
        self.is_gone = False
        self.reader = RunReader(run_dir, lock)
        self.metric: str | None = None
        """checkpoint.best_metric of its recipe, read when the run is first followed."""
        self.outputs: list[tuple[str, Path]] = []
        """(name, file) of what its newest job and its ranks have put out."""
        self.is_read = self.is_followed = False
        self.look_at = 0.0
        """When its status is looked at again, by the monotonic clock."""
        self.stamp: tuple[float, ...] = ()

    @property
    def state(self) -> str:
        """The state as `shardtune status` gives it; gone if the folder is, UNKNOWN before it was looked at."""
        if self.is_gone:
            return "gone"
        return UNKNOWN if self.status is None else self.status.state

    @property
    def why(self) -> str:
        """The reason for the state."""
        if self.is_gone:
            return "the folder does not exist any more; this is what was read of it"
        return self.problem or (self.status.why if self.status else "")

    @property
    def is_going_on(self) -> bool:
        return self.state in monitor.GOING_ON


class Poller:
    """The watched runs, kept up to date. What the screen reads of them it reads with `lock` held."""

    def __init__(self, find: Callable[[Sequence[QueuedJob]], list[Path]], *, is_fixed: bool) -> None:
        """`find` gives the run directories to watch; with `is_fixed` they stay the same, and in this order."""
        self.lock = threading.RLock()
        self.runs: list[WatchedRun] = []
        self.version = 0
        """Raised when there is something new to show."""
        self.notice: str | None = None
        """What went wrong with Slurm, if it does not answer."""
        self.failure: Exception | None = None
        """What ended the thread, which is a bug."""
        self.wanted: frozenset[Path] = frozenset()
        """The runs that the user looks at: chosen or marked."""
        self.output: Path | None = None
        """The file of which the newest lines are to be read."""
        self.output_lines: list[str] = []
        self._output_stamp: tuple[Path, int, int] | None = None
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
        """Looks at what is due; returns whether older events are left to be read."""
        now = time.monotonic()
        if now >= self._find_at and not (self._is_fixed and self.runs):
            self._find_at = now + FIND_S
            self._update_runs(now)
        changed = [self._follow(run) for run in self.runs if run.is_going_on or run.run_dir in self.wanted]
        changed += [self._look(run, now) for run in self._due(now)]
        changed.append(self._read_output())
        is_busy = self._read_old()
        self._is_news = self._is_news or any(changed) or is_busy or self._was_busy
        self._was_busy = is_busy
        if self._is_news and (now - self._told_at >= POLL_S or not is_busy):
            self._is_news, self._told_at = False, now
            self.version += 1
        return is_busy

    def _follow(self, run: WatchedRun) -> bool:
        """Reads what is new of a run that is going on or looked at; returns whether anything is."""
        is_first = not run.is_followed
        if is_first:
            run.metric, run.is_followed = _best_metric(run.run_dir), True
            run.outputs = _outputs(run.run_dir)
        return run.reader.read_new() or is_first

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
        self.version += 1

    def _order(self) -> None:
        """Those going on first, then the newest first; given ones stay in their order."""
        if self._is_fixed:
            return
        newest = {run: run.stamp[0] if run.stamp else _mtime(run.run_dir / METRICS) for run in self.runs}
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
            stamp = tuple(_mtime(run.run_dir / name) for name in STAMPED)
            is_same = run.status is not None and stamp == run.stamp and run.problem is None
            if is_same and not run.is_going_on and run.run_dir not in queued:
                run.look_at = now + LOOK_AGAIN_S
                continue
            run.stamp = stamp
            due.append(run)
        return due

    def _look(self, run: WatchedRun, now: float) -> bool:
        """Looks at the status of a run; returns whether it has changed."""
        before, was_going_on = (run.status, run.problem, self.notice), run.is_going_on
        try:
            self._ask_queue(now)
            status = monitor.look_at(run.run_dir, self._jobs)
            run.status, run.problem = status, None
        except LaunchError as error:  # Slurm's controller is restarting or overloaded
            self.notice, self._jobs_at = str(error), now + monitor.PATIENCE_S
        except ShardtuneError as error:
            run.problem = str(error)
        except (OSError, ValueError, KeyError, TypeError) as error:  # a file that is being replaced, or damaged
            run.problem = f"the status cannot be read: {error}"
        run.is_gone = run.problem is not None and not run.run_dir.is_dir()
        if run.is_followed:
            run.outputs = _outputs(run.run_dir)
        run.look_at = now + (LOOK_S if run.is_going_on or run.problem else LOOK_AGAIN_S)
        if not run.is_read:
            run.is_read = True
            run.reader.read_new()
        if was_going_on != run.is_going_on:
            run.reader.read_new()
            self._order()
        return before != (run.status, run.problem, self.notice)

    def _ask_queue(self, now: float) -> None:
        """Asks Slurm for the user's jobs, if that was not done just now."""
        if now < self._jobs_at:
            return
        self._jobs_at = now + LOOK_S
        try:
            self._jobs, self.notice = cluster.queued_jobs(), None
        except LaunchError as error:
            self.notice, self._jobs_at = str(error), now + monitor.PATIENCE_S

    def _read_old(self) -> bool:
        """Reads older events for a while, first of what the user looks at; returns whether some are left."""
        until = time.monotonic() + READ_OLD_S
        waiting = [run for run in self.runs if run.is_read and run.reader.progress is not None]
        waiting.sort(key=lambda run: (run.run_dir not in self.wanted, not run.is_going_on))
        for run in waiting:
            is_wanted = run.is_going_on or run.run_dir in self.wanted
            if not is_wanted and _size(run.run_dir / METRICS) > SMALL_BYTES:
                continue
            while run.reader.read_old():
                if time.monotonic() > until or self._is_stopped:
                    return True
        return False

    def _read_output(self) -> bool:
        """Reads the newest lines of the chosen output, if it has changed; returns whether it has."""
        path = self.output
        if path is None:
            return False
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                stamp = (path, size, path.stat().st_mtime_ns)
                if stamp == self._output_stamp:
                    return False
                file.seek(max(0, size - OUTPUT_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            stamp, text = (path, -1, -1), ""
            if stamp == self._output_stamp:
                return False
        with self.lock:
            self._output_stamp = stamp
            self.output_lines = text.split("\n")[1 if len(text) >= OUTPUT_BYTES else 0 :]
            if self.output_lines and not self.output_lines[-1]:
                self.output_lines.pop()
        return True


def _best_metric(run_dir: Path) -> str | None:
    """checkpoint.best_metric of the run's recipe, if it is set."""
    with contextlib.suppress(OSError, UnicodeDecodeError, YamlError):
        recipe = read_yaml((run_dir / CONFIG).read_text(encoding="utf-8")).value
        checkpoint = recipe.get("checkpoint") if isinstance(recipe, dict) else None
        metric = checkpoint.get("best_metric") if isinstance(checkpoint, dict) else None
        return metric if isinstance(metric, str) else None
    return None


def _outputs(run_dir: Path) -> list[tuple[str, Path]]:
    outputs = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        outputs += [(f"output {path.name}", path) for path in monitor.job_outputs(run_dir)[:1]]
    logs = [path for path in (run_dir / "logs").glob("rank-*.log") if path.stem.removeprefix("rank-").isdecimal()]
    logs.sort(key=lambda path: int(path.stem.removeprefix("rank-")))
    launcher = run_dir / "logs" / "launcher.log"
    return [*outputs, *((path.stem, path) for path in logs), *([("launcher", launcher)] if launcher.is_file() else [])]


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
