"""Which of several blended models is exported, by what was measured of each; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardtune.errors import DataError
from shardtune.trainer.checkpoint.manifest import rankable


@dataclass(frozen=True)
class Measure:
    """The metric by which models are compared on a set of rows."""

    metric: str
    lower_is_better: bool


@dataclass(frozen=True)
class Point:
    """What a blended model can do."""

    alpha: float
    dev: Mapping[str, Any]
    test: Mapping[str, Any]
    """With intervals; empty without a test split."""
    others: Mapping[str, Mapping[str, Any]]
    """The metrics on other rows, by the name of the set."""


@dataclass(frozen=True)
class Choice:
    """The model to export."""

    best: float
    """Its alpha."""
    rule: str
    """By what it was chosen, as the end of a sentence."""
    scores: Mapping[float, float | None]
    """By alpha, the number of which the highest was chosen; None where something was not finite."""


def choose(points: Sequence[Point], dev: Measure, others: Mapping[str, Measure]) -> Choice:
    """The best of these points, which begin with alpha 0 and end with alpha 1; of equal ones the nearest to the base.

    Raises DataError if dev gave no finite number for any.
    """
    compared = {name: measure for name, measure in others.items() if _end(points[0].others[name], measure) is not None}
    end = _end(points[-1].dev, dev)
    if end is None or not compared:
        scores = {point.alpha: _signed(point.dev, dev) for point in points}
        rule = f"by the {'lowest' if dev.lower_is_better else 'highest'} {dev.metric} on dev"
    else:
        scores = {point.alpha: _score(point, points[0], end, dev, compared) for point in points}
        rule = (
            f"by the highest mean of two shares: of the tuned model's {dev.metric} on dev, and of the base's "
            f"{_listed(compared)}"
        )
    if left_out := [name for name in others if name not in compared]:
        rule += f" ({', '.join(left_out)} left out: what the base has there is not a positive number)"
    known = {alpha: score for alpha, score in scores.items() if score is not None}
    if not known:
        raise DataError(
            f"no model between the base and the tuned one has a finite {dev.metric} on dev; nothing to pick"
        )
    return Choice(max(known, key=lambda alpha: (known[alpha], -alpha)), rule, scores)


def _score(point: Point, base: Point, end: float, dev: Measure, others: Mapping[str, Measure]) -> float | None:
    """The mean of the share of the tuned model's dev metric, and that of the base's metrics on other rows."""
    learned = _share(rankable(point.dev, dev.metric), end, dev)
    kept = [
        _share(rankable(point.others[name], measure.metric), _end(base.others[name], measure), measure)
        for name, measure in others.items()
    ]
    known = [share for share in kept if share is not None]
    if learned is None or len(known) < len(kept):
        return None
    return (learned + sum(known) / len(known)) / 2


def _share(value: float | None, end: float | None, measure: Measure) -> float | None:
    """How much of the end's metric a value is: 1 is as good; above 1, better."""
    if value is None or end is None:
        return None
    if not measure.lower_is_better:
        return value / end
    return end / value if value > 0 else None


def _end(metrics: Mapping[str, Any], measure: Measure) -> float | None:
    """The metric of a model that others are compared with; None if nothing can be a share of it."""
    value = rankable(metrics, measure.metric)
    return value if value is not None and value > 0 else None


def _signed(metrics: Mapping[str, Any], measure: Measure) -> float | None:
    """The metric, with the sign by which higher is better; None if it is not finite."""
    value = rankable(metrics, measure.metric)
    return -value if value is not None and measure.lower_is_better else value


def _listed(others: Mapping[str, Measure]) -> str:
    return ", ".join(f"{measure.metric} on {name}" for name, measure in others.items())
