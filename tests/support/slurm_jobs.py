"""Jobs on the test cluster: hand them in, see how they end, and hold a rank still to do something to the job."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shardtune.launcher.slurm.lifecycle import Start, parse_status
from shardtune.launcher.slurm.stop_requests import USR1_DETAILS
from tests.support.runs import events
from tests.support.slurm_cluster import ROOT, Cluster, wait_for

FINETUNE = ROOT / "slurm" / "finetune.sh"
CPU = ("job.device=cpu", "job.ranks=1", "job.cpus_per_node=2", "job.threads_per_rank=1")
"""What lets a node of the test cluster train, whose GPUs are none."""
Shardtune = Callable[..., subprocess.CompletedProcess[str]]
"""Runs `shardtune` with these words on the login node."""
START_S = 600.0
"""What a start of ranks may take on a busy machine of two cores."""
LAST_STEP = 60
"""Of tiny.yaml."""


@dataclass(frozen=True)
class Stage:
    """Where a story plays. Each has nodes of its own, for they are told at the same time."""

    cluster: Cluster
    tiny: Path
    folder: Path
    unbroken: Any
    """The loss curve of the tiny recipe on one rank of this machine, from its beginning to its end."""

    @property
    def recipe(self) -> Path:
        return self.tiny / "tiny.yaml"


Told = dict[Callable[[Stage], None], Future[None]]


def sbatch(cluster: Cluster, *words: str | Path, cwd: Path, **environment: str) -> str:
    """Hands a job in; its number."""
    done = cluster.run("sbatch", "--parsable", *map(str, words), cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def by_hand(cluster: Cluster, *words: str, recipe: Path, run_dir: Path | None, ranks: int = 1) -> str:
    """Hands slurm/finetune.sh in, in the recipe's folder or that of the run directory; the job's number."""
    cwd = recipe.parent if run_dir is None else run_dir.parent
    arguments = [recipe, "job.device=cpu", f"job.ranks={ranks}", "job.threads_per_rank=1"]
    arguments += [] if run_dir is None else [f"--run-dir={run_dir}"]
    return sbatch(cluster, "--cpus-per-task=2", *words, FINETUNE, *arguments, cwd=cwd, PYTHONPATH=".")


def wait_for_end(cluster: Cluster, job: str, timeout_s: float = 2 * START_S) -> str:
    """The state that a job has ended in, such as COMPLETED."""
    going_on = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")
    wait_for(lambda: cluster.state(job) not in going_on, timeout_s, every_s=0.5)
    return cluster.state(job)


def wait_for_ends(cluster: Cluster, jobs: Sequence[str], timeout_s: float) -> list[str]:
    """The same of several that go on at the same time, or one after another."""
    deadline = time.monotonic() + timeout_s
    return [wait_for_end(cluster, job, max(1.0, deadline - time.monotonic())) for job in jobs]


def starts(run_dir: Path) -> list[Start]:
    """What status.json says."""
    path = run_dir / "status.json"
    return parse_status(path.read_text(encoding="utf-8")) if path.exists() else []


def endings(run_dir: Path) -> list[tuple[str, str | None]]:
    """(state, cause) of every start."""
    return [(start.state, start.cause) for start in starts(run_dir)]


def wait_for_step(run_dir: Path, step: int, *, num_starts: int = 1) -> None:
    """Waits until the run's nth start has done this step."""

    def done() -> bool:
        if len(starts(run_dir)) < num_starts or not (run_dir / "metrics.jsonl").exists():
            return False
        since = starts(run_dir)[-1].began
        return any(event["step"] >= step and event["time"] > since for event in events(run_dir, "step"))

    wait_for(done, START_S, every_s=0.02)


def each_of(stories: Sequence[Callable[[Stage], None]]) -> Callable[[Any], Any]:
    """Parametrizes a test by its module's stories, which the fixture `told` tells all at once."""

    def decorate(test: Any) -> Any:
        told_each = pytest.mark.parametrize("story", stories, ids=lambda story: story.__name__)
        return pytest.mark.timeout(3 * START_S)(told_each(test))

    return decorate


def wait_for_checkpoint(run_dir: Path) -> None:
    """Waits until the run has a complete checkpoint, which is saved in the background."""
    wait_for(lambda: any((run_dir / "checkpoints").glob("step-*")), START_S, every_s=0.02)


def ranks_of(run_dir: Path) -> dict[int, int]:
    """Rank -> process id of those that live on any node, as this machine counts processes."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it is gone, or is none of ours
            continue
        if words[1:4] == [b"-u", b"-m", b"shardtune.trainer"] and words[4] == os.fsencode(run_dir):
            rank = next(word for word in environment if word.startswith(b"RANK="))
            found[int(rank.removeprefix(b"RANK="))] = int(folder.name)
    return found


def noted_by_shell(run_dir: Path) -> bool:
    """Whether the batch shell, warned by Slurm, has noted what Slurm said of the job just then."""
    path = run_dir / USR1_DETAILS
    return path.exists() and path.read_text(encoding="utf-8").endswith("\n")


@contextmanager
def held_still(run_dir: Path, rank: int = 0) -> Iterator[None]:
    """Holds a rank still, and with it all that wait for it: the run is in the middle of a step."""
    pid = ranks_of(run_dir)[rank]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if ranks_of(run_dir).get(rank) == pid:
            os.kill(pid, signal.SIGCONT)


def messages(cluster: Cluster, job: str) -> list[str]:
    """What slurm/finetune.sh has said in a job's output."""
    output = Path(cluster.field(job, "StdOut")).read_text(encoding="utf-8")
    return [line.removeprefix("shardtune: ") for line in output.splitlines() if line.startswith("shardtune: ")]
