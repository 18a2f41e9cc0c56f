"""The finished points of a sweep together: mean and spread over seeds, and the learning curve of fractions.

They are written to SWEEP_DIR/results.json, and printed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shardtune.counted import counted
from shardtune.launcher.plan.sweep import PREFIXES, Point, SweepPlan, with_seed
from shardtune.launcher.report.intervals import Spread, spread_of
from shardtune.launcher.report.learning_curve.curve import CurvePoint, LearningCurve, rows_of_table, sentence
from shardtune.launcher.report.record import RunRecord, read_record
from shardtune.launcher.report.sections.numbers import shown
from shardtune.launcher.runs.status import render_columns
from shardtune.launcher.runs.sweep_table import Outcome, metric_names, outcome_of, render_outcomes, render_sweep_page
from shardtune.recipe.load import learning_hash
from shardtune.run_dir.files import REPORT, RESULTS, write_atomically

SEED = "train.seed="


@dataclass(frozen=True)
class SeedGroup:
    """Points that differ in their seeds alone."""

    overrides: tuple[str, ...]
    """What tells them from the others of the sweep."""
    outcomes: Mapping[int, Outcome]
    """By seed."""
    names: Sequence[str]
    """Of the metrics, the one that chose the models first."""

    @cached_property
    def values(self) -> dict[str, dict[int, float]]:
        """Metric -> its finite values by seed."""
        by_metric = {
            name: {
                seed: outcome.metrics[name]
                for seed, outcome in self.outcomes.items()
                if math.isfinite(outcome.metrics.get(name, math.nan))
            }
            for name in self.names
        }
        return {name: values for name, values in by_metric.items() if values}

    @cached_property
    def spreads(self) -> dict[str, Spread]:
        """Metric -> its spread over the seeds that have it."""
        return {name: spread_of(list(values.values())) for name, values in self.values.items()}

    def render(self) -> str:
        """A table of all metrics under a heading."""
        rows = [("METRIC", "MEAN", "STD", "N", "95 % INTERVAL OF THE MEAN")]
        for name, spread in self.spreads.items():
            low, high = spread.mean - spread.half_width, spread.mean + spread.half_width
            interval = f"{shown(low)} to {shown(high)}" if spread.number > 1 else ""
            rows.append((name, shown(spread.mean), shown(spread.deviation), str(spread.number), interval))
        missing = [str(seed) for seed, outcome in self.outcomes.items() if not outcome.metrics]
        without = f"; without results: {', '.join(missing)}" if missing else ""
        told = f"{' '.join(self.overrides)}: " if self.overrides else ""
        return f"{told}over {counted(len(self.outcomes), 'seed')}{without}\n{render_columns(rows)}"

    def as_json(self) -> dict[str, Any]:
        """The group for results.json: the deviation is the sample's, the interval that of the mean (Student's t)."""
        metrics = {
            name: {
                "mean": spread.mean,
                "std": spread.deviation,
                "n": spread.number,
                "interval": [spread.mean - spread.half_width, spread.mean + spread.half_width]
                if spread.number > 1
                else None,
                "values": self.values[name],
            }
            for name, spread in self.spreads.items()
        }
        return {"overrides": self.overrides, "seeds": list(self.outcomes), "metrics": metrics}


def seed_groups(sweep: SweepPlan, outcomes: Sequence[Outcome]) -> list[SeedGroup]:
    """The points by what they learn but for the seed: the groups of two or more."""
    outcome_of = {outcome.number: outcome for outcome in outcomes}
    groups: dict[str, list[Point]] = {}
    for point in sweep.points:
        groups.setdefault(learning_hash(with_seed(point.recipe, 0)), []).append(point)
    names = metric_names(outcomes)
    return [
        SeedGroup(
            tuple(override for override in points[0].overrides if not override.startswith(SEED)),
            {point.recipe.train.seed: outcome_of[point.number] for point in points},
            names,
        )
        for points in groups.values()
        if len(points) > 1
    ]


def learning_curves(sweep: SweepPlan, outcomes: Sequence[Outcome], num_rows: Mapping[int, int]) -> list[LearningCurve]:
    """The curve of the metric that chose the models, on test if there is one, and that of the loss.

    `num_rows` has the training rows of each point that has begun. Empty unless the sweep is of fractions.
    """
    if sweep.kind != "fractions":
        return []
    chosen = next((outcome for outcome in outcomes if outcome.metric is not None), None)
    has_test = any(name.startswith("test/") for outcome in outcomes for name in outcome.metrics)
    split = "test" if has_test else "dev"
    metric = chosen.metric.partition("/")[2] if chosen is not None and chosen.metric is not None else "loss"
    is_lower_better = {"loss": True} | ({metric: chosen.lower_is_better} if chosen is not None else {})
    found = []
    for name in dict.fromkeys((metric, "loss")):
        points = _points(sweep, outcomes, num_rows, f"{split}/{name}")
        if points:
            found.append(LearningCurve(f"{split}/{name}", is_lower_better[name], points))
    return found


def _points(
    sweep: SweepPlan, outcomes: Sequence[Outcome], num_rows: Mapping[int, int], metric: str
) -> list[CurvePoint]:
    """The runs that have the metric, with few rows first."""
    found = [
        CurvePoint(sweep.point(outcome.number).recipe.data.fraction, num_rows[outcome.number], outcome.metrics[metric])
        for outcome in outcomes
        if outcome.number in num_rows and math.isfinite(outcome.metrics.get(metric, math.nan))
    ]
    return sorted(found, key=lambda point: (point.rows, point.value))


@dataclass(frozen=True)
class SweepResults:
    """What the points of a sweep have given so far."""

    sweep: SweepPlan
    outcomes: Sequence[Outcome]
    records: Mapping[int, RunRecord]

    @cached_property
    def groups(self) -> list[SeedGroup]:
        """The points that differ in their seeds alone."""
        return seed_groups(self.sweep, self.outcomes)

    @cached_property
    def curves(self) -> list[LearningCurve]:
        """The learning curves of fractions."""
        starts = {number: record.start or {} for number, record in self.records.items()}
        num_rows = {
            number: start["num_rows"] for number, start in starts.items() if isinstance(start.get("num_rows"), int)
        }
        return learning_curves(self.sweep, self.outcomes, num_rows)

    @property
    def page(self) -> Path:
        """Where the page is written."""
        return self.sweep.sweep_dir / REPORT

    def write(self) -> None:
        """Writes SWEEP_DIR/report.html and SWEEP_DIR/results.json."""
        text = render_sweep_page(self.sweep.sweep_dir.name, self.outcomes, self.records, self.curves)
        write_atomically(self.page, text)
        content = json.dumps(self.as_json(), indent=1, ensure_ascii=False)
        write_atomically(self.sweep.sweep_dir / RESULTS, content)

    def as_json(self) -> dict[str, Any]:
        """The results of each point, of the seeds together, and the learning curves."""
        kind = self.sweep.kind
        runs = [
            {
                "run": f"{PREFIXES[kind]}{outcome.number}",
                "overrides": outcome.overrides,
                "state": outcome.state,
                "best_step": outcome.best_step,
                "metrics": dict(outcome.metrics),
            }
            for outcome in self.outcomes
        ]
        found: dict[str, Any] = {"kind": kind, "runs": runs, "over_seeds": [each.as_json() for each in self.groups]}
        return found | ({"learning_curves": [each.as_json() for each in self.curves]} if kind == "fractions" else {})

    def render(self) -> str:
        """The same as text, a paragraph for each."""
        texts = [render_outcomes(self.outcomes), *(group.render() for group in self.groups)]
        for curve in self.curves:
            head, rows = rows_of_table(curve)
            texts.append(f"{render_columns([tuple(map(str.upper, head)), *rows])}\n{sentence(curve)}")
        return "\n\n".join(texts)


def read_results(sweep: SweepPlan, states: Mapping[int, str]) -> SweepResults:
    """The results of the points so far; `states` says how `shardtune status` names the state of each."""
    records = {point.number: read_record(point.run_dir) for point in sweep.points}
    outcomes = [
        outcome_of(point.number, point.overrides, states[point.number], records[point.number].results)
        for point in sweep.points
    ]
    return SweepResults(sweep, outcomes, records)
