"""What the parts of the check share: their size, their processes, the clock, and how their outcome is shown."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.workers import JobFailed, OutOfTime, Worker, Workers, last_lines


@dataclass
class Outcome:
    """What a part found."""

    lines: list[str] = field(default_factory=list)
    """Its table, as printed."""
    data: dict[str, Any] = field(default_factory=dict)
    """Its numbers, for the JSON."""
    failures: list[str] = field(default_factory=list)
    """Bounds that do not hold."""
    skipped: list[str] = field(default_factory=list)
    """What was not measured, and why."""
    error: str | None = None
    """The last lines of an error that ended the part."""
    seconds: float = 0.0

    @property
    def status(self) -> str:
        if self.error is not None:
            return "error"
        if self.failures:
            return "failed"
        return "passed" if self.data else "skipped"

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "failures": self.failures,
            "skipped": self.skipped,
            **({"error": self.error} if self.error is not None else {}),
            "data": self.data,
        }


@dataclass
class Bench:
    """One check of one machine."""

    device: str
    """cpu or cuda."""
    is_tiny: bool
    """Whether the models and the number of trainings are the smallest."""
    folder: Path
    workers: Workers
    ends_at: float
    """The monotonic time at which the check has to be over."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The device and what is installed."""
    part_ends_at: float = 0.0
    """The monotonic time at which the present part has to be over."""

    @property
    def left_s(self) -> float:
        """Seconds that the present part has left."""
        return self.part_ends_at - time.monotonic()

    def do(self, worker: Worker, job: str, **arguments: Any) -> dict[str, Any]:
        """The result of a job. Raises JobFailed, or OutOfTime when the part's time is used up."""
        if self.left_s <= 0:
            raise OutOfTime
        return worker.do(job, within_s=self.left_s, **arguments)

    def train(self, worker: Worker, run: str, recipe: dict[str, Any], **limits: Any) -> dict[str, Any]:
        """What a training reported, in the run directory of this name."""
        return self.do(worker, "train", recipe=recipe, run_dir=str(self.folder / "runs" / run), **limits)

    def recipe(self, **sections: dict[str, Any]) -> dict[str, Any]:
        """A recipe of these sections that trains on one rank, and reports each step to the run directory alone."""
        common: dict[str, dict[str, Any]] = {
            "data": {"cache_dir": str(self.folder / "prepared"), "prepare_processes": 1},
            "checkpoint": {},
            "report": {"wandb": "disabled"},
            "faults": {"spike_deviations": None},
        }
        return {name: {**common.get(name, {}), **sections.get(name, {})} for name in {**common, **sections}}


@dataclass(frozen=True)
class Part:
    """A part of the check."""

    name: str
    title: str
    share: float
    """Its share of the time of the whole check; what it leaves goes to the parts after it."""
    run: Callable[[Bench, Outcome], None]
    """Fills the outcome as it goes, so that what was found is kept if it fails."""


def run_parts(bench: Bench, parts: Sequence[Part]) -> Iterator[tuple[Part, Outcome]]:
    """Runs the parts in order, each within its time; yields the outcome of each as it ends. None ends another."""
    began, whole, share = time.monotonic(), bench.ends_at - time.monotonic(), 0.0
    for part in parts:
        share += part.share
        bench.part_ends_at = began + whole * share
        yield part, _run_part(bench, part)


def _run_part(bench: Bench, part: Part) -> Outcome:
    outcome, began = Outcome(), time.monotonic()
    try:
        if bench.left_s <= 0:
            raise OutOfTime
        part.run(bench, outcome)
    except OutOfTime:
        outcome.skipped.append("the time of this part is used up")
    except JobFailed as error:
        outcome.error = str(error)
    except Exception as error:
        outcome.error = last_lines("".join(traceback.format_exception(error)))
    outcome.seconds = time.monotonic() - began
    return outcome


def render(part: Part, outcome: Outcome) -> str:
    """The outcome of a part, as it is printed."""
    lines = [f"== {part.title}: {outcome.status} ({outcome.seconds:.0f} s)", *outcome.lines]
    lines += [f"not measured: {text}" for text in outcome.skipped]
    lines += [f"FAILED: {text}" for text in outcome.failures]
    if outcome.error is not None:
        lines += ["ERROR:", *(f"    {line}" for line in outcome.error.splitlines())]
    return "\n".join(lines) + "\n"
