"""Events of metrics.jsonl -> the rows that W&B shows, under keys in sections. Pure.

The same events give the same rows with the same numbers, live and when they are uploaded later: W&B keeps only rows
whose number is above that of the last one, so that what it has already is never there twice.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shardtune.run_dir.view.tracked import SECTION_OF

Event = Mapping[str, Any]
ROWS_PER_STEP = 10
"""W&B's own `_step` is this times the step, so that evaluations after a step have a number of their own."""
MOST_UNDONE = 100_000
"""Step lines whose number of tokens is kept in case that a rollback undoes later ones."""
AXES = ("step", "tokens", "epoch")
"""In every row: what charts may have as their x axis. The first is the default."""

_NOT_SHOWN = {"event", "time", "step", "split", "epoch"}
"""Entries of an event that are no metrics, or axes."""
_LOWER_IS_BETTER = ("loss", "perplexity", "mse", "mae", "rmse", "wer", "cer", "ter", "ece", "error", "kl")
_BEST = {
    "train/loss": "min",
    "perf/tokens_per_s": "max",
    "perf/samples_per_s": "max",
    "perf/mfu": "max",
    "perf/step_time_s": "min",
    "memory/bytes": "max",
    "memory/reserved_bytes": "max",
    "ranks/lost_share": "max",
    "train/grad_norm": "max",
}
"""Key -> which of its values the summary of the run shows beside the last one."""


@dataclass(frozen=True)
class Row:
    """One line of W&B's history."""

    number: int
    """W&B's `_step`."""
    values: Mapping[str, int | float | str]
    time: float | None = None
    """When it was reported, in seconds since the epoch; None for now."""


@dataclass
class Rows:
    """Follows the events of a run in their order, those of all of its starts, and turns them into rows."""

    _step: int = 0
    _redone: int = 0
    """Steps that rollbacks within a start have undone: they are drawn again, as rows of their own."""
    _pending: int = 0
    _tokens: float = 0.0
    _tokens_at: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=MOST_UNDONE))
    _number: int = -1
    _epoch: float = 0.0
    _counts: dict[str, float] = field(default_factory=dict)

    def add(self, event: str, values: Event) -> Row | None:
        """The row of this event; None if it has none."""
        if event == "begin":
            self._pending = 0  # the start before this one lost these steps: their rows are the same again
            self._count("faults/starts")
        elif event == "start":
            self._go_to(int(values.get("step", 0)))
        elif event == "lost":
            self._pending = int(values["num_steps"])
            self._go_to(int(values["step"]))
            self._count("faults/lost_steps", values["num_steps"])
        elif event == "alert":
            self._count("faults/alerts")
        elif event == "step":
            return self._train(values)
        elif event in ("eval", "compile"):
            return self._other(event, values)
        return None

    def rolled_back(self, step: int) -> None:
        """Takes note that this start goes back to a step, as the `lost` event in metrics.jsonl will say."""
        if (num_steps := self._step - step) > 0:
            self.add("lost", {"step": step, "num_steps": num_steps})

    def extra(self) -> Row:
        """One more row at the newest step, for what is no event of its own."""
        self._number += 1
        return self._row(self._step, {})

    def _train(self, values: Event) -> Row:
        self._settle()
        step = int(values["step"])
        num_steps = max(0, step - self._step)
        self._tokens += num_steps * (values.get("tokens_per_s") or 0.0) * (values.get("step_time_s") or 0.0)
        self._tokens_at.append((step, self._tokens))
        self._step, self._epoch = step, values.get("epoch") or 0.0
        shown = {train_key(key): value for key, value in values.items() if key not in _NOT_SHOWN}
        self._number = max(self._number + 1, ROWS_PER_STEP * (step + self._redone))
        return self._row(step, shown | self._counts, values.get("time"))

    def _other(self, event: str, values: Event) -> Row:
        self._settle()
        step = int(values.get("step", self._step))
        if event == "eval":
            split = str(values["split"])
            shown = {eval_key(split, key): value for key, value in values.items() if key not in _NOT_SHOWN}
        else:
            shown = {f"perf/{key}": value for key, value in values.items() if key not in _NOT_SHOWN}
        self._number = max(self._number + 1, ROWS_PER_STEP * (self._step + self._redone) + 1)
        return self._row(step, shown, values.get("time"))

    def _row(self, step: int, shown: Mapping[str, Any], time: float | None = None) -> Row:
        axes = {"step": step, "tokens": round(self._tokens), "epoch": self._epoch}
        return Row(self._number, axes | {key: value for key, value in shown.items() if _is_plain(value)}, time)

    def _settle(self) -> None:
        """Takes the steps before which the training was rolled back as rows of their own."""
        self._redone += self._pending
        self._pending = 0

    def _go_to(self, step: int) -> None:
        """Forgets the steps after this one."""
        if step < self._step:
            while self._tokens_at and self._tokens_at[-1][0] > step:
                self._tokens_at.pop()
            self._tokens = self._tokens_at[-1][1] if self._tokens_at else 0.0
            self._step = step

    def _count(self, key: str, amount: float = 1) -> None:
        self._counts[key] = self._counts.get(key, 0) + amount


def train_key(key: str) -> str:
    """The key in W&B of an entry of a `step` event."""
    if key.startswith("memory_"):
        return f"memory/{key.removeprefix('memory_')}"
    section = "faults" if key == "skipped_steps" else SECTION_OF.get(key, "train")
    return f"{section}/{key}"


def eval_key(split: str, key: str) -> str:
    """The key in W&B of an entry of an `eval` event: eval/dev/f1, but retention/loss for what is to be retained."""
    section = "" if split.startswith("retention") else "eval/"
    return f"{section}{split}/{key}"


def best_of(key: str) -> str | None:
    """Which value of a key is the best one, `min` or `max`; None for a key without a best."""
    if key in _BEST:
        return _BEST[key]
    section, _, rest = key.partition("/")
    if section not in ("eval", "retention") or not rest:
        return None
    words = rest.rpartition("/")[2].split("_")
    return "min" if any(word in _LOWER_IS_BETTER for word in words) else "max"


def _is_plain(value: Any) -> bool:
    """Whether W&B draws it; nan and inf are left out, as in metrics.jsonl, which has null there."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int | str)
