"""What Slurm knows of the runs, asked in a thread of its own: a controller that does not answer holds up nobody."""

import threading
import time
from collections.abc import Callable, Sequence
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

    def __init__(self, run_dirs: Callable[[], Sequence[Path]]) -> None:
        """`run_dirs` gives the runs that are looked at."""
        self._run_dirs = run_dirs
        self._jobs: dict[Path, QueuedJob] = {}
        self.folders: list[Path] = []
        """The run directories that jobs in the queue name."""
        self._words: dict[JobIdentity, tuple[float, str | None]] = {}
        self._asked: set[JobIdentity] = set()
        self._has_answered = False
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
        if not self._has_answered:
            raise NotAnsweredError
        with self._lock:
            return self._jobs.get(run_dir)

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
        jobs = cluster.queued_jobs()
        found = {}
        for run_dir in self._run_dirs() if jobs else ():
            try:
                job = cluster.job_of(run_dir, jobs)
            except (OSError, ValueError, KeyError, IndexError, TypeError):  # damaged records of its jobs
                continue
            if job is not None:
                found[run_dir] = job
        named = [Path(job.comment) for job in jobs if job.comment]
        with self._lock:
            self._jobs, self._has_answered = found, True
            self.folders = [folder for folder in named if (folder / CONFIG).is_file()]

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
                self.ask_for_words()
            except (LaunchError, OSError):
                self._wake.wait(SHORT_S)  # what it told last is kept
            self._wake.wait(max(0.0, next_s - time.monotonic()))
