"""What both sides have reached -> is shardtune worse, beyond chance, and how long did it take to be as good?

Worse: for each data set the metric's mean over the seeds, on the same test rows for both sides, by the paired bootstrap
(trainer/evaluation/paired.py); the p-values are Holm's, because one of several data sets is easily unlucky.
As good: the first evaluation on dev at which the mean over shardtune's seeds has reached that of the peer's last
models; if no one has although the test does not tell them apart, the end of the training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.quality.cases import Case, Row
from benchmarks.quality.scoring import gold_of, mean_of, scorer_of
from benchmarks.quality.sides import OURS, PEER, Reached
from shardtune.launcher.report.intervals import Spread, spread_of
from shardtune.trainer.evaluation.intervals import Counts
from shardtune.trainer.evaluation.paired import differences

SIGNIFICANT = 0.05
MOST_TIME = 0.5
"""The part of the peer's time within which shardtune has to be as good."""


@dataclass(frozen=True)
class Compared:
    """Both sides on one data set."""

    name: str
    metric: str
    spreads: Mapping[str, Spread]
    """Side -> its test metric over the seeds."""
    difference: float
    """Of the means, shardtune's minus the peer's."""
    interval: tuple[float, float]
    """95 % interval of the difference over other test rows."""
    p: float
    curve: Sequence[tuple[float, float]]
    """(seconds of training, dev metric) of shardtune, both as means over the seeds."""
    target: float
    """The dev metric of the peer's last models, as a mean over the seeds."""
    reached_s: float
    """Seconds of training until shardtune was as good."""
    has_reached: bool
    """Whether an evaluation on dev reached the target; else reached_s is the whole training."""
    train_s: Mapping[str, float]
    wall_s: Mapping[str, float]

    @property
    def time_ratio(self) -> float:
        return self.reached_s / self.train_s[PEER]


@dataclass(frozen=True)
class Verdict:
    """All data sets together."""

    compared: Sequence[Compared]

    @property
    def adjusted(self) -> list[float]:
        """The p-value of each data set after Holm."""
        return holm([each.p for each in self.compared])

    @property
    def faults(self) -> list[str]:
        """A line for each data set on which shardtune is worse or takes too long."""
        found = [
            f"{each.name}: {each.metric} is {-each.difference:.4f} worse than the peer's (p = {p:.3g} after Holm)"
            for each, p in zip(self.compared, self.adjusted, strict=True)
            if each.difference < 0 and p < SIGNIFICANT
        ]
        found += [
            f"{each.name}: took {each.time_ratio:.2f} of the peer's time, more than {MOST_TIME:g}"
            for each in self.compared
            if each.time_ratio > MOST_TIME
        ]
        return found

    def as_json(self) -> dict[str, Any]:
        """All numbers."""
        found = [
            {**asdict(each), "time_ratio": each.time_ratio, "p_holm": p}
            for each, p in zip(self.compared, self.adjusted, strict=True)
        ]
        for each in found:
            each["spreads"] = {side: Spread(*spread)._asdict() for side, spread in each["spreads"].items()}
        return {"compared": found, "faults": self.faults}


def compare(case: Case, test_rows: Sequence[Row], reached: Sequence[Reached]) -> Compared:
    """Both sides on one data set, each with the same seeds."""
    gold, sides = gold_of(case, test_rows), {side: [at for at in reached if at.side == side] for side in (OURS, PEER)}
    scorers = {side: [scorer_of(case, gold, at.answers) for at in found] for side, found in sides.items()}
    once = np.ones(len(gold), dtype=np.int64)
    means = {side: mean_of(found) for side, found in scorers.items()}

    def metrics_of(side: str, times: Counts) -> dict[str, float]:
        return {case.metric: means[side](times)}

    found = differences(lambda times: metrics_of(PEER, times), lambda times: metrics_of(OURS, times), len(gold))
    difference = found[case.metric]
    assert difference.interval is not None and difference.p is not None, "these metrics are always finite"
    curve = [
        (float(np.mean([seconds for seconds, _ in at])), float(np.mean([value for _, value in at])))
        for at in zip(*(ours.curve for ours in sides[OURS]), strict=True)
    ]
    target = float(np.mean([at.dev for at in sides[PEER]]))
    first = next((seconds for seconds, value in curve if value >= target), None)
    return Compared(
        case.name,
        case.metric,
        {side: spread_of([scorer(once) for scorer in found]) for side, found in scorers.items()},
        difference.b - difference.a,
        difference.interval,
        difference.p,
        curve,
        target,
        curve[-1][0] if first is None else first,
        first is not None,
        {side: float(np.mean([at.train_s for at in found])) for side, found in sides.items()},
        {side: float(np.mean([at.wall_s for at in found])) for side, found in sides.items()},
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm, 1979), in the same order."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def render(verdict: Verdict) -> str:
    """A table with a line for each data set, and what is wrong."""
    head = ("data set", "metric", f"{OURS} (95 % over seeds)", f"{PEER} (95 % over seeds)", "difference (95 % rows)")
    lines: list[tuple[str, ...]] = [(*head, "p (Holm)", "as good after", f"{PEER}'s time", "ratio", "commands")]
    for each, p in zip(verdict.compared, verdict.adjusted, strict=True):
        low, high = each.interval
        lines.append(
            (
                each.name,
                each.metric,
                *(_shown(each.spreads[side]) for side in (OURS, PEER)),
                f"{each.difference:+.4f} ({low:+.4f} to {high:+.4f})",
                f"{p:.3f}",
                f"{each.reached_s:.1f} s{'' if each.has_reached else ' (end)'}",
                f"{each.train_s[PEER]:.1f} s",
                f"{each.time_ratio:.2f}",
                " / ".join(f"{each.wall_s[side]:.0f} s" for side in (OURS, PEER)),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    said = [f"FAILED {fault}" for fault in verdict.faults] or [
        f"on no data set significantly worse, and as good within {MOST_TIME:g} of the peer's time on all"
    ]
    return "\n".join([*table, *said])


def _shown(spread: Spread) -> str:
    if spread.number < 2:
        return f"{spread.mean:.4f}"
    low, high = spread.mean - spread.half_width, spread.mean + spread.half_width
    return f"{spread.mean:.4f} ± {spread.deviation:.4f} ({low:.4f} to {high:.4f})"
