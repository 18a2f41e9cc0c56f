"""The comparison of a sweep's points: a table for a terminal, and a page with all curves in common charts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shardtune.launcher.report.comparison import Comparison, overlaid, seeds_tables
from shardtune.launcher.report.learning_curve.curve import LearningCurve, rows_of_table, sentence
from shardtune.launcher.report.learning_curve.drawing import draw
from shardtune.launcher.report.parts import Figure, Part, Section, Table, Text
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.templates import render_template
from shardtune.launcher.runs.status import render_columns


@dataclass(frozen=True)
class Outcome:
    """The state and the results of a point."""

    number: int
    overrides: tuple[str, ...]
    state: str
    best_step: int | None
    metrics: Mapping[str, float]
    """Of the best model, such as dev/accuracy; empty until the point is finished."""
    metric: str | None
    """The metric that chose the best model; it orders the points."""
    lower_is_better: bool


def outcome_of(number: int, overrides: tuple[str, ...], state: str, results: Mapping[str, Any] | None) -> Outcome:
    """The outcome of a point; `results` is the content of its results.json, None if it does not exist yet."""
    results = results or {}
    chosen = results.get("chosen_by") or {}
    metrics = {
        f"{split}/{name}": value
        for split in ("dev", "test")
        for name, value in (results.get(split) or {}).items()
        if isinstance(value, float)
    }
    metric = f"dev/{chosen['metric']}" if chosen else None
    return Outcome(
        number, overrides, state, results.get("best_step"), metrics, metric, bool(chosen.get("lower_is_better"))
    )


def in_order(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The points with the best first, and those without results, or with nan on dev, last, by number."""

    def place(outcome: Outcome) -> tuple[float, int]:
        value = outcome.metrics.get(outcome.metric or "", math.nan)
        if not math.isfinite(value) or math.isnan(outcome.metrics.get("dev/loss", 0.0)):
            return math.inf, outcome.number
        return (value if outcome.lower_is_better else -value), outcome.number

    return sorted(outcomes, key=place)


def render_outcomes(outcomes: Sequence[Outcome]) -> str:
    """A table with a line for each point, the best first."""
    return render_columns(_rows(outcomes))


def metric_names(outcomes: Sequence[Outcome]) -> list[str]:
    """The metrics that any point has, the one that chose the models first."""
    first = next((outcome.metric for outcome in outcomes if outcome.metric), None)
    others = sorted({name for outcome in outcomes for name in outcome.metrics} - {first})
    return [*([first] if first else []), *others]


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    names = metric_names(outcomes)
    rows = [("POINT", "STATE", *names, "BEST STEP", "OVERRIDES")]
    for outcome in in_order(outcomes):
        values = (f"{outcome.metrics[name]:.4f}" if name in outcome.metrics else "" for name in names)
        step = "" if outcome.best_step is None else str(outcome.best_step)
        rows.append((str(outcome.number), outcome.state, *values, step, " ".join(outcome.overrides)))
    return rows


def render_sweep_page(
    name: str,
    outcomes: Sequence[Outcome],
    records: Mapping[int, RunRecord],
    curves: Sequence[LearningCurve] = (),
) -> str:
    """The page of a sweep: the table, means over seeds, learning curves, and charts with a line for each point."""
    ordered = in_order(outcomes)
    comparison = Comparison([replace(records[outcome.number], name=str(outcome.number)) for outcome in ordered])
    head, *rows = _rows(outcomes)
    points = Table(
        "Points, the best first",
        [cell.lower() for cell in head],
        rows,
        has_row_heads=True,
        colours=comparison.colours,
    )
    sections = [
        Section("points", "Points", [points]),
        Section("seeds", "Over seeds", seeds_tables(comparison)),
        Section("learning-curve", "Would more data help?", [part for curve in curves for part in _parts(curve)]),
    ]
    return render_template(
        "sweep.html.j2",
        name=name,
        sections=[section for section in sections if section.parts],
        charts=overlaid(comparison),
    )


def _parts(curve: LearningCurve) -> list[Part]:
    """The sentence, the drawing and the table of a learning curve."""
    head, rows = rows_of_table(curve)
    table = Table(f"{curve.metric} by training rows", head, rows, has_row_heads=True)
    return [Text([sentence(curve)]), Figure([draw(curve)], is_wide=True), table]
