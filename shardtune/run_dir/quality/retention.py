"""What the model retains of other skills: the `retention` events of metrics.jsonl, set by set. Pure.

Every page, tracker and terminal shows a set by what is found here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from shardtune.metrics.direction import is_lower_better
from shardtune.metrics.numbers import change_text, metric_text

RETENTION = "retention"
"""The kind of the events, and the key of results.json that has the sets."""
NOT_METRICS = ("event", "time", "step", "set", "task", "metric", "lower_is_better")
"""Entries of such an event that are no measurements."""
Event = Mapping[str, Any]


class TradeOff(NamedTuple):
    """An evaluation as a point of the target-against-retention curve."""

    step: int
    target: float
    """The metric on dev that chooses the best step."""
    value: float
    """The metric of the set."""
    is_best: bool
    """Whether the exported model is that of this step."""


@dataclass(frozen=True)
class RetentionSet:
    """Held-out rows of another skill, and how the model does on them. Values that are not finite are None."""

    name: str
    task: str
    metric: str
    """The metric that counts."""
    lower_is_better: bool
    values: Mapping[int, float]
    """Step -> the metric, in the order of the steps."""
    before: float | None = None
    """The metric before the first step."""
    best: float | None = None
    """That of the exported model, or of the one that would be exported now."""

    @property
    def last(self) -> float | None:
        """The newest value."""
        return list(self.values.values())[-1] if self.values else None

    @property
    def now(self) -> float | None:
        """That of the exported model, or else the newest value."""
        return self.last if self.best is None else self.best

    @property
    def change(self) -> float | None:
        """How far the exported model, or else the newest one, is from the model before the first step."""
        return None if self.now is None or self.before is None else self.now - self.before

    @property
    def is_worse(self) -> bool:
        """Whether something was lost."""
        return bool(self.change) and ((self.change or 0.0) > 0) == self.lower_is_better

    def trade_off(self, targets: Mapping[int, float], best_step: int | None) -> list[TradeOff]:
        """The points of its curve, in the order of the steps; `targets` has the metric on dev by step."""
        return [
            TradeOff(step, targets[step], value, step == best_step)
            for step, value in self.values.items()
            if step in targets
        ]

    def in_words(self) -> str:
        """`news accuracy 0.9120 (-0.0340)`."""
        change = f" ({change_text(self.change)})" if self.change is not None else ""
        return f"{self.name} {self.metric} {metric_text(self.now) or '?'}{change}"


def retention_sets(
    events: Iterable[Event], results: Mapping[str, Any] | None = None, best_step: int | None = None
) -> list[RetentionSet]:
    """The sets of a run, in the order of their names' first evaluations.

    `best_step` is that of the model which is, or would be, exported; results.json goes before it.
    """
    by_name: dict[str, list[Event]] = {}
    for event in events:
        if event.get("event") == RETENTION and is_evaluation(event):
            by_name.setdefault(event["set"], []).append(event)
    known = _mapping((results or {}).get(RETENTION))
    best_step = (results or {}).get("best_step", best_step)
    names = dict.fromkeys([*by_name, *map(str, known)])
    return [_set_of(name, by_name.get(name, []), _mapping(known.get(name)), best_step) for name in names]


def is_evaluation(event: Event) -> bool:
    """Whether a `retention` event says of which set, at which step and by which metric."""
    return (
        isinstance(event.get("set"), str)
        and isinstance(event.get("metric"), str)
        and isinstance(event.get("step"), int)
    )


def targets_of(
    events: Iterable[Event], metric: str | None, results: Mapping[str, Any] | None = None
) -> dict[int, float]:
    """Step -> the finite values of a metric on dev, step 0 from results.json if no event has it."""
    start = _finite(_mapping((results or {}).get("dev_at_start")).get(metric or ""))
    found = {} if start is None else {0: start}
    for event in events:
        if event.get("event") == "eval" and event.get("split") == "dev" and isinstance(event.get("step"), int):
            value = _finite(event.get(metric or ""))
            if value is not None:
                found[event["step"]] = value
    return found


def retention_line(sets: Sequence[RetentionSet]) -> str:
    """All sets in one line; empty without any."""
    return "  ".join(each.in_words() for each in sets)


def _set_of(name: str, events: Sequence[Event], known: Mapping[str, Any], best_step: Any) -> RetentionSet:
    newest = events[-1] if events else known
    metric = str(newest.get("metric", "loss"))
    by_step = dict(
        sorted((event["step"], _finite(event.get(metric))) for event in {e["step"]: e for e in events}.values())
    )
    values = {step: value for step, value in sorted(by_step.items()) if value is not None}
    before = _finite(_mapping(known.get("at_start")).get(metric))
    best = _finite(_mapping(known.get("best")).get(metric))
    return RetentionSet(
        name=name,
        task=str(newest.get("task", "")),
        metric=metric,
        lower_is_better=bool(newest.get("lower_is_better", is_lower_better(metric))),
        values=values,
        before=values.get(0) if before is None else before,
        best=values.get(best_step) if best is None else best,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
