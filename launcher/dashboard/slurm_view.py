"""What Slurm knows of the runs, asked in a thread of its own: a controller that does not answer holds up nobody."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path

from shardtune.errors import LaunchError
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.job_identity import JobIdentity
from shardtune.launcher.slurm.text import QueuedJob
from shardtune.run_dir.files import CONFIG

EVERY_S = 10.0
"""Between two questions to Slurm, each of which is for all runs."""
SHORT_S = 2.0
"""After a question that Slurm did not answer."""
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
"""States of a job that do not change any more, unless it is requeued."""
ASK_AGAIN_S = 60.0
"""After this time Slurm is asked again about a job that it did not know, or that was still ending."""


class NotAnsweredError(Exception):
    """Slurm has not answered yet."""


class SlurmView:
    """The user's jobs, and what became of those that have left the queue, as Slurm told last."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        """The run directories that jobs in the queue name."""
        self._queue: list[QueuedJob] | None = None
        self._jobs: dict[Path, QueuedJob | None] = {}
        """Run directory -> its job in the queue."""
        self._wanted: set[Path] = set()
        """The run directories that `job_of` was called for."""
        self._words: dict[JobIdentity, tuple[float, str | None]] = {}
        self._asked: set[JobIdentity] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_over = False

    def start(self) -> None:
        """Begins to ask Slurm."""
        threading.Thread(target=self._work, name="slurm", daemon=True).start()

    def stop(self) -> None:
        """Asks no more; a question that is under way is left alone."""
        self._is_over = True
        self._wake.set()

    def job_of(self, run_dir: Path) -> QueuedJob | None:
        """The job in the queue that trains this run; None if there is none. Raises NotAnsweredError."""
        with self._lock:
            self._wanted.add(run_dir)
            if run_dir not in self._jobs:
                self._wake.set()
                raise NotAnsweredError
            return self._jobs[run_dir]

    def forget(self, run_dirs: Iterable[Path]) -> None:
        """Looks for the jobs of these runs no more."""
        with self._lock:
            self._wanted -= set(run_dirs)

    def last_word(self, number: str, identity: JobIdentity) -> str | None:
        """What Slurm reports of a job that has left the queue (cluster.last_word). Raises NotAnsweredError."""
        with self._lock:
            when, word = self._words.get(identity, (None, None))
            if when is None or (time.monotonic() - when > ASK_AGAIN_S and not (word or "").startswith(FINAL)):
                self._asked.add(identity)
                self._wake.set()
            if when is None:
                raise NotAnsweredError
            return word

    def ask(self) -> None:
        """Asks for the queue. Raises LaunchError if Slurm does not answer."""
        queue = cluster.queued_jobs()
        named = [Path(job.comment) for job in queue if job.comment]
        folders = [folder for folder in named if (folder / CONFIG).is_file()]
        with self._lock:
            wanted = set(self._wanted)
        jobs = {run_dir: _job_of(run_dir, queue) for run_dir in wanted}
        with self._lock:
            self._queue, self._jobs, self.folders = queue, jobs, folders

    def find_jobs(self) -> None:
        """Finds the jobs of the runs that `job_of` was called for the first time, in the queue as it was last."""
        with self._lock:
            new, queue = self._wanted - self._jobs.keys(), self._queue
        if queue is not None:
            jobs = {run_dir: _job_of(run_dir, queue) for run_dir in new}
            with self._lock:
                self._jobs |= jobs

    def ask_for_words(self) -> None:
        """Asks what became of the jobs that `last_word` was called for. Raises LaunchError if Slurm does not answer."""
        with self._lock:
            asked, self._asked = self._asked, set()
        for identity in asked:
            word = cluster.last_word(identity.job, identity)
            with self._lock:
                self._words[identity] = (time.monotonic(), word)

    def _work(self) -> None:
        next_s = 0.0
        while not self._is_over:
            self._wake.clear()
            try:
                if time.monotonic() >= next_s:
                    next_s = time.monotonic() + EVERY_S
                    self.ask()
                self.find_jobs()
                self.ask_for_words()
            except (LaunchError, OSError):
                self._wake.wait(SHORT_S)  # what it told last is kept
            self._wake.wait(max(0.0, next_s - time.monotonic()))


def _job_of(run_dir: Path, queue: list[QueuedJob]) -> QueuedJob | None:
    try:
        return cluster.job_of(run_dir, queue) if queue else None
    except (OSError, ValueError, KeyError, IndexError, TypeError):  # damaged records of its jobs
        return None
