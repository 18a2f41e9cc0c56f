"""Real runs, as a user starts them: killed or asked to stop at seeded moments, and started again.

A round is one run of its own. Its launcher, or one of its two ranks, or all of its processes are dealt a blow, in its
start-up or in the middle of its training; then it is started again until it has come to its end.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_RESUME
from shardtune.run_dir.files import read_events
from tests.faults.harness import WORLD_SIZE, naming, refuse_another_end
from tests.support.runs import RECIPE, write_tiny

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
NUM_STEPS = 80
SETTINGS = (
    f"train.max_steps={NUM_STEPS}",
    "train.eval_every_steps=40",
    "checkpoint.every_steps=10",
    "faults.restart_delay_s=0",
    "report.wandb=offline",
)
PATIENCE_S = 900.0
"""A start that takes longer has not ended by itself."""


@dataclass(frozen=True)
class Blow:
    """What happens to the first start of a run."""

    name: str
    step: int
    """After which it strikes; 0 is a start-up, counted from when both ranks are there."""
    delay_s: float
    rank: int

    def __str__(self) -> str:
        when = f"in training, {self.delay_s:.2f} s after step {self.step}"
        whom = f" {self.rank}" if self.name == RANK else ""
        return f"{self.name}{whom}, {when if self.step else f'in start-up, {self.delay_s:.2f} s after it has begun'}"


RANK, LAUNCHER, ALL = "kill -9 of rank", "kill -9 of the launcher", "kill -9 of every process"
STOP = "SIGTERM to the launcher"
NAMES = (RANK, LAUNCHER, ALL, STOP)


def draw_blow(seed: int) -> Blow:
    """The blow of a seed: each kind in turn, every other time in turns in a start-up and in the training."""
    chosen = random.Random(seed)
    in_start_up = seed // len(NAMES) % 2 == 1
    step = 0 if in_start_up else chosen.randrange(1, NUM_STEPS * 3 // 4)
    return Blow(
        NAMES[seed % len(NAMES)], step, chosen.uniform(0, 6 if in_start_up else 0.2), chosen.randrange(WORLD_SIZE)
    )


@dataclass(frozen=True)
class Place:
    """What all rounds share."""

    folder: Path
    unbroken: Path
    """The run directory of a run that nothing has happened to."""
    settings: tuple[str, ...]


def make_place(folder: Path, *settings: str) -> Place:
    """The data, the recipe with these settings, and the unbroken run."""
    write_tiny(folder)
    (folder / "tiny.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
    place = Place(folder, folder / "unbroken", settings)
    code, said = Launch(place, place.unbroken).end()
    assert code == EXIT_OK, said
    return place


class Launch:
    """One `shardtune run`."""

    def __init__(self, place: Place, run_dir: Path) -> None:
        words = [sys.executable, "-m", "shardtune.launcher", "run", "tiny.yaml", *SETTINGS, *place.settings]
        words.append(f"--run-dir={run_dir}")
        self._said = place.folder / f"{run_dir.name}.said"
        with self._said.open("w") as file:
            self.process = subprocess.Popen(
                words,
                cwd=place.folder,
                env=os.environ | ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said, once it has ended."""
        try:
            code = self.process.wait(PATIENCE_S)
        finally:
            for pid in [] if self.is_over else family(self.process.pid):
                send(pid, signal.SIGKILL)
        return code, self._said.read_text(encoding="utf-8")


def rounds(place: Place, seeds: Iterable[int]) -> Iterator[str]:
    """Says what happened in each round. AssertionError if a run does not end as the unbroken one, or as two of W&B."""
    for seed in seeds:
        run_dir = place.folder / f"run-{seed}"
        blow = draw_blow(seed)
        with naming([seed]):
            code, num_launches = suffer(Launch(place, run_dir), run_dir, blow), 1
            while code != EXIT_OK:
                code, said = Launch(place, run_dir).end()
                num_launches += 1
                assert code == EXIT_OK, f"{blow}: started again, it ends with {code}:\n{said}"
            refuse_another_end(run_dir, place.unbroken)
            refuse_two_wandb_runs(run_dir)
        begun = [event["step"] for event in read_events(run_dir) if event["event"] == "start"]
        yield f"seed {seed}: {blow}: launched {num_launches} times; the training began at the steps {begun}"
        shutil.rmtree(run_dir)


def suffer(launch: Launch, run_dir: Path, blow: Blow) -> int:
    """Deals a launch the blow; its exit code. AssertionError if it is not the one that this may lead to."""
    try:
        if blow.step:
            wait_for(lambda: launch.is_over or last_step(run_dir) >= blow.step)
        else:
            wait_for(lambda: launch.is_over or len(ranks_of(launch.process.pid)) == WORLD_SIZE)
        time.sleep(blow.delay_s)
        assert not launch.is_over, f"{blow}: it has ended before, as {launch.end()}"
        everyone = family(launch.process.pid)
        victims = {RANK: [ranks_of(launch.process.pid)[blow.rank]], ALL: everyone}.get(blow.name, [launch.process.pid])
        for pid in victims:
            send(pid, signal.SIGTERM if blow.name == STOP else signal.SIGKILL)
        wait_for(lambda: launch.is_over and not any(map(is_there, everyone)))  # and none of them lives on
    finally:
        code, said = launch.end()
    expected = {RANK: EXIT_OK, LAUNCHER: -signal.SIGKILL, ALL: -signal.SIGKILL, STOP: EXIT_RESUME}[blow.name]
    assert code == expected, f"{blow}: it ends with {code} instead of {expected}:\n{said}"
    if blow.name == RANK:
        assert f"rank {blow.rank} was killed by signal 9" in said and "restarting in 0 s" in said, said
    return code


def refuse_two_wandb_runs(run_dir: Path) -> None:
    """AssertionError unless all starts of the run were one run of W&B."""
    tracked = {path.name.rpartition("-")[2] for path in (run_dir / "wandb").glob("offline-run-*")}
    assert tracked == {(run_dir / "wandb_id").read_text(encoding="utf-8").strip()}, f"{run_dir}: {tracked}"


def wait_for(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def last_step(run_dir: Path) -> int:
    """The last step that the run has reported."""
    return max((event["step"] for event in read_events(run_dir) if event["event"] == "step"), default=0)


def family(pid: int) -> list[int]:
    """The process and those that it has started, and they, in that order."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone by now
            parent = int(path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def ranks_of(pid: int) -> dict[int, int]:
    """The processes of a launch that are ranks, by their number."""
    found = {}
    for member in family(pid):
        with contextlib.suppress(OSError):
            words = (Path("/proc") / str(member) / "cmdline").read_bytes().split(b"\0")
            environment = (Path("/proc") / str(member) / "environ").read_bytes().split(b"\0")
            rank = next((word for word in environment if word.startswith(b"RANK=")), None)
            if rank is not None and b"shardtune.trainer" in words:
                found[int(rank.partition(b"=")[2])] = member
    return found


def is_there(pid: int) -> bool:
    """Whether the process has not ended; a zombie has."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
