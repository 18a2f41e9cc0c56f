"""Checkpoints on a disk that is really full, or really read-only, for a while: a small tmpfs.

`unshare` gives the process that trains mounts of its own, so that nothing stays mounted however it ends. Root or a user
who may have namespaces can do that.
"""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from shardtune.trainer.checkpoint import checkpoints as checkpoint
from shardtune.trainer.checkpoint.manifest import complete_checkpoints, damage
from tests.faults.harness import naming
from tests.support.runs import curve, events, tiny_recipe, train, write_tiny
from tests.support.stops import at_steps

ROOT = Path(__file__).parents[2]
SIZE_MB = 80
"""Of the disk: room for checkpoints and for what they leave free, and for little else."""
NUM_STEPS, EVERY = 16, 2
BEFORE, DURING, READ_ONLY = "full before a checkpoint", "full in the middle of its file", "read-only"
NAMES = (BEFORE, DURING, READ_ONLY)
SAID = {BEFORE: "GB free; the checkpoint needs", DURING: "No space left on device", READ_ONLY: "Read-only file system"}
"""What the alerts say; of those that follow on DURING, that of BEFORE."""


@dataclass(frozen=True)
class Shortage:
    """What happens to the disk of a run."""

    name: str
    begin: int
    """The step that is being done when it begins; DURING waits for the next checkpoint's file."""
    end: int
    """The step that is being done when it is over."""
    rank: int
    """Whose file it is that finds no room."""

    def __str__(self) -> str:
        where = f" of rank {self.rank}" if self.name == DURING else ""
        return f"disk {self.name}{where}, from step {self.begin} to {self.end}"


def draw_shortage(seed: int) -> Shortage:
    """The shortage of a seed: each kind in turn."""
    chosen = random.Random(seed)
    begin = chosen.randint(EVERY + 1, NUM_STEPS // 2)
    end = chosen.randint(begin + 2 * EVERY, NUM_STEPS - 1)
    return Shortage(NAMES[seed % len(NAMES)], begin, end, chosen.randrange(2))


def rounds(folder: Path, seeds: Sequence[int]) -> Iterator[str]:
    """Says what happened in each round. AssertionError if a run does not go on, or not to the unbroken one's end."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    words = ["unshare", "--mount", *as_root, sys.executable, "-m", "tests.faults.small_disk", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*words, *map(str, seeds)], env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield from (line for line in done.stdout.splitlines() if line.startswith("seed "))  # DeepSpeed prints there too


def suffer(data: Path, unbroken: Path, run_dir: Path, shortage: Shortage) -> str:
    """Trains while the disk is short; what became of its checkpoints. AssertionError if that is not as it should be."""
    disk = run_dir / "checkpoints"
    disk.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(disk))

    def end_shortage() -> None:
        whole = [
            checkpoint.step
            for checkpoint in complete_checkpoints(disk)
            if damage(checkpoint, checkpoint.manifest.files) is None
        ]
        (run_dir / "whole").write_text(" ".join(map(str, whole)))
        if shortage.name == READ_ONLY:
            mount("-o", "remount,rw", str(disk))
        else:
            filler(disk).unlink()

    begin = {
        BEFORE: lambda: fill(disk),
        DURING: lambda: fill_at_the_next_file(disk, shortage.rank),
        READ_ONLY: lambda: mount("-o", "remount,ro", str(disk)),
    }[shortage.name]
    deeds = {shortage.begin: begin if shortage.name == DURING else on_rank_zero(begin)}
    before = at_steps(deeds | {shortage.end: on_rank_zero(end_shortage)})
    ended, _ = train(recipe(data, shortage), run_dir, world_size=2, before=before)
    assert ended == [True, True]
    saved = [event["step"] for event in events(run_dir, "checkpoint")]
    alerts = [alert for alert in events(run_dir, "alert") if alert["title"].endswith("was not saved")]
    refused = [alert["step"] for alert in alerts]
    during = [step for step in range(EVERY, NUM_STEPS, EVERY) if shortage.begin <= step < shortage.end]
    assert set(during) <= set(refused), f"{shortage}: {refused} were refused, and not {during}"
    assert SAID[shortage.name] in alerts[0]["text"], alerts[0]["text"]
    newest = max(step for step in saved if step < refused[0])
    assert all(f"Training continues; the newest checkpoint is of step {newest}" in alert["text"] for alert in alerts)
    whole = [int(step) for step in (run_dir / "whole").read_text().split()]
    assert newest in whole, f"{shortage}: that of step {newest} was there, and of {whole} every byte is as it was"
    later = [step for step in saved if step > refused[-1]]
    assert NUM_STEPS in later, f"{shortage}: there was room again, and {later} were saved"
    # Not the results: the best model may be that of a step whose checkpoint found no room.
    assert curve(events(run_dir)) == curve(events(unbroken)), f"{shortage}: another curve"
    mine, theirs = (load_file(path / "export" / "last" / "model.safetensors") for path in (run_dir, unbroken))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)
    mount(str(disk), program="umount")
    return f"{shortage}: not saved {refused}, while that of step {newest} stayed whole; later {later}"


def recipe(data: Path, shortage: Shortage | None) -> Any:
    # What was saved before the disk is short, or comes to an end, is published by then.
    beside = shortage is not None and shortage.name == DURING
    keys = [f"every_steps={EVERY}", "keep_last=2", f"asynchronous={str(beside).lower()}"]
    return tiny_recipe(data, *(f"checkpoint.{key}" for key in keys), f"train.max_steps={NUM_STEPS}")


def on_rank_zero(deed: Callable[[], object]) -> Callable[[], object]:
    return lambda: deed() if os.environ["RANK"] == "0" else None


def filler(disk: Path) -> Path:
    return disk / "filler"


def fill(disk: Path) -> None:
    """Takes all that the disk has left, to the last page."""
    file = os.open(filler(disk), os.O_WRONLY | os.O_CREAT)
    for size in (2**20, 2**12):
        try:
            while True:
                os.write(file, bytes(size))
        except OSError:
            continue
    os.close(file)


def fill_at_the_next_file(disk: Path, rank: int) -> None:
    """Breaks this process, if it is that rank: the disk is full as its next checkpoint's file is begun."""
    write = checkpoint.write_fragments

    def full(*args: Any) -> None:
        checkpoint.write_fragments = write
        fill(disk)
        write(*args)

    if os.environ["RANK"] == str(rank):
        checkpoint.write_fragments = full


def mount(*words: str, program: str = "mount") -> None:
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{program} {' '.join(words)}: {done.stderr}"


def main(folder: Path, seeds: Sequence[int]) -> None:
    """All rounds, in a process whose mounts are its own."""
    data, unbroken = write_tiny(folder / "data"), folder / "unbroken"
    train(recipe(data, None), unbroken, world_size=2)
    for seed in seeds:
        with naming([seed]):
            said = suffer(data, unbroken, folder / f"run-{seed}", draw_shortage(seed))
        print(f"seed {seed}: {said}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
