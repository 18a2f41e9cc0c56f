"""What is known of one of the watched runs, and how it is looked at."""

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

from shardtune.errors import LaunchError, ShardtuneError
from shardtune.launcher.runs import monitor
from shardtune.launcher.runs.status import RunStatus
from shardtune.launcher.runs.terminal.run_reader import RunReader
from shardtune.launcher.slurm.text import QueuedJob
from shardtune.recipe.yaml_lines import YamlError, read_yaml
from shardtune.run_dir.files import CONFIG, LEASE, METRICS, RESULTS

UNKNOWN = "…"
"""The state of a run that was not looked at yet."""
STAMPED = (METRICS, LEASE, RESULTS, "status.json", "submission.json")
"""Files of which one changes when a run that has ended begins again, or is found to have ended."""
EVENT_BYTES = 2**14
"""The events at both ends of metrics.jsonl that a look at the status reads; the others come from the reader."""


class WatchedRun:
    """A run, its status and its history."""

    def __init__(self, run_dir: Path, lock: threading.RLock) -> None:
        self.run_dir = run_dir
        self.name = run_dir.name
        self.status: RunStatus | None = None
        self.problem: str | None = None
        """Why the status could not be read the last time; None if it could."""
        self.is_gone = self.is_looked_at = False
        self.reader = RunReader(run_dir, lock)
        self.is_read = False
        """Whether its reader has been opened."""
        self.metric: str | None = None
        """checkpoint.best_metric of its recipe, known once the reader has been opened."""
        self.outputs: list[tuple[str, Path]] = []
        """(name, file) of what its newest job and its ranks have put out, as of the last `find_outputs`."""
        self.look_at = 0.0
        """When its status is looked at again, by the monotonic clock."""
        self.stamp: tuple[float, ...] = ()
        """When its files had changed when it was last looked at."""

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

    @property
    def size(self) -> int:
        """The bytes of its metrics.jsonl."""
        try:
            return (self.run_dir / METRICS).stat().st_size
        except OSError:
            return 0

    def follow(self) -> bool:
        """Reads what is new; returns whether anything is."""
        is_first = not self.is_read
        if is_first:
            self.metric, self.is_read = best_metric(self.run_dir), True
            self.find_outputs()
        return self.reader.read_new() or is_first

    def look(self, jobs: Sequence[QueuedJob]) -> bool:
        """Looks at the status; returns whether it has changed. Raises LaunchError if Slurm does not answer."""
        before = self.status, self.problem, self.is_looked_at
        try:
            self.status = monitor.look_at(self.run_dir, list(jobs), event_bytes=EVENT_BYTES)
            self.problem = None
        except LaunchError:
            raise
        except ShardtuneError as error:
            self.problem = str(error)
        except (OSError, ValueError, KeyError, TypeError) as error:  # a file that is being replaced, or damaged
            self.problem = f"the status cannot be read: {error}"
        self.is_gone = self.problem is not None and not self.run_dir.is_dir()
        self.is_looked_at = True
        return before != (self.status, self.problem, self.is_looked_at)

    def is_stamped_anew(self) -> bool:
        """Whether a file has changed since the last call."""
        before, self.stamp = self.stamp, tuple(mtime(self.run_dir / name) for name in STAMPED)
        return before != self.stamp

    def find_outputs(self) -> None:
        """Looks which outputs there are."""
        outputs = []
        with contextlib.suppress(OSError, ValueError, KeyError):
            outputs += [(f"output {path.name}", path) for path in monitor.job_outputs(self.run_dir)[:1]]
        numbers = {path: path.stem.removeprefix("rank-") for path in (self.run_dir / "logs").glob("rank-*.log")}
        logs = sorted((path for path in numbers if numbers[path].isdecimal()), key=lambda path: int(numbers[path]))
        outputs += [(path.stem, path) for path in logs]
        launcher = self.run_dir / "logs" / "launcher.log"
        self.outputs = [*outputs, *([("launcher", launcher)] if launcher.is_file() else [])]


def best_metric(run_dir: Path) -> str | None:
    """checkpoint.best_metric of the run's recipe, if it is set."""
    with contextlib.suppress(OSError, UnicodeDecodeError, YamlError):
        recipe = read_yaml((run_dir / CONFIG).read_text(encoding="utf-8")).value
        checkpoint = recipe.get("checkpoint") if isinstance(recipe, dict) else None
        metric = checkpoint.get("best_metric") if isinstance(checkpoint, dict) else None
        return metric if isinstance(metric, str) else None
    return None


def mtime(path: Path) -> float:
    """When the file was changed, in seconds since the epoch; 0 without one."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
