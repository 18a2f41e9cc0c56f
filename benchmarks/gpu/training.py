"""A training within this process, as the trainer runs it on a rank, and what it reported.

Trainings follow one another in a process group of one rank. One may be asked to stop after a step, or be left without
a checkpoint, or have less memory than there is.
"""

import gc
import json
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from shardtune.errors import RestartError
from shardtune.recipe.load import parse_recipe
from shardtune.run_dir.files import METRICS, read_events
from shardtune.run_dir.micro_batch_budget import read_budget
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.distributed.ranks import Ranks, connect
from shardtune.trainer.distributed.stop import Stop
from shardtune.trainer.run import run

MOST_RESTARTS = 8
KEPT_OF_STEP = (
    "step",
    "loss",
    "grad_norm",
    "tokens_per_s",
    "tflops_per_s",
    "mfu",
    "step_time_s",
    "padding_efficiency",
    "memory_bytes",
    "memory_reserved_bytes",
)


@dataclass(frozen=True)
class Place:
    """The device on which this process computes."""

    device: str
    """cpu or cuda."""

    @cached_property
    def ranks(self) -> Ranks:
        """The one rank, connected when it is first used: until then no memory of a GPU is taken."""
        return connect("cuda" if self.device == "cuda" else "cpu")

    def free(self) -> None:
        """Gives back the memory of what is no longer used, and measures peaks anew."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak of the resident memory

    def memory(self) -> tuple[int, int]:
        """Bytes in use now, and at the peak since `free`: of tensors on a GPU, or of this process."""
        if self.device == "cuda":
            return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        return _status("VmRSS"), _status("VmHWM")


class Left(BaseException):
    """The training is left where it is. Not an Exception: nothing on the way handles it."""


class StopAfter(Stop):
    """Ends a training when its last step but one is reported: with a checkpoint, or by raising Left without one."""

    def __init__(self, run_dir: Path, *, stop_after: int | None, leave_after: int | None) -> None:
        super().__init__()
        self._path = run_dir / METRICS
        self._stop_after, self._leave_after = stop_after, leave_after
        self._read, self._step = 0, 0

    @property
    def requested(self) -> bool:
        """Asked before a step is reported. Raises Left."""
        step = self._last_reported() + 1
        if self._leave_after is not None and step > self._leave_after:
            raise Left
        if self._stop_after is not None and step >= self._stop_after:
            self.reason = "the check"
        return self.reason is not None

    def _last_reported(self) -> int:
        if (self._stop_after, self._leave_after) != (None, None) and self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read += len(whole) + len(newline)
            steps = [event["step"] for event in map(json.loads, whole.splitlines()) if event["event"] == "step"]
            self._step = max([self._step, *steps])
        return self._step


def train(
    place: Place,
    recipe: Mapping[str, Any],
    run_dir: Path,
    *,
    stop_after: int | None = None,
    leave_after: int | None = None,
    memory_bytes: int | None = None,
    deterministic: bool = False,
) -> dict[str, Any]:
    """Trains a recipe, and again after each lack of memory, as the launcher would; returns what it reported.

    stop_after is the step of the checkpoint with which it stops; leave_after the last step if it ends without one.
    With memory_bytes it has no more memory than this in addition to what is in use.
    """
    parsed = parse_recipe(json.dumps(recipe))
    for name in ("logs", "checkpoints", "export"):
        (run_dir / name).mkdir(parents=True, exist_ok=True)
    prepared = prepare(parsed)
    ranks = place.ranks
    place.free()
    before, began = place.memory()[0], time.monotonic()
    budgets: list[int] = []
    is_finished = None
    with _memory_limit(place, memory_bytes), _determinism(deterministic):
        while is_finished is None:
            stop = StopAfter(run_dir, stop_after=stop_after, leave_after=leave_after)
            try:
                is_finished = run(parsed, run_dir, prepared, ranks, stop)
            except Left:
                is_finished = False
            except RestartError:
                if len(budgets) == MOST_RESTARTS or (kept := read_budget(run_dir)) is None:
                    raise
                budgets.append(kept.tokens)
            if is_finished is None:
                place.free()
    peak, took_s = place.memory()[1], time.monotonic() - began
    place.free()
    return {
        **_reported(run_dir),
        "is_finished": is_finished,
        "budgets": budgets,
        "wall_s": took_s,
        "memory": {"before": before, "peak": peak, "after": place.memory()[0]},
    }


def _reported(run_dir: Path) -> dict[str, Any]:
    """The steps that a run reported, the step that its last start resumed from, and what was packed."""
    events = read_events(run_dir)
    starts = [event for event in events if event["event"] == "start"]
    return {
        "steps": [
            {key: event[key] for key in KEPT_OF_STEP if key in event} for event in events if event["event"] == "step"
        ],
        "resumed_at": starts[-1]["step"] if starts else None,
        "is_packed": starts[-1]["packed"] if starts else None,
        "num_parameters": starts[-1]["num_parameters"] if starts else None,
        "num_trained": starts[-1]["num_trained"] if starts else None,
        "alerts": [f"{event['title']}: {event['text']}" for event in events if event["event"] == "alert"],
    }


@contextmanager
def _memory_limit(place: Place, num_bytes: int | None) -> Iterator[None]:
    """Makes allocations fail that need more than so many bytes in addition to what this process has now."""
    if num_bytes is None:
        yield
    elif place.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + num_bytes) / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + num_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _determinism(is_wanted: bool) -> Iterator[None]:
    """Kernels that add up in the same order every time, where torch has them."""
    if is_wanted:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _status(name: str) -> int:
    """A number of bytes in /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
