"""The comparison of a sweep's points: a table for a terminal, and a page with all curves in common charts."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.launcher.plan.sweep import SweepPlan
from shardtune.launcher.report.templates import render_template
from shardtune.launcher.runs.status import render_columns
from shardtune.run_dir.files import REPORT, RESULTS, read_events, write_atomically
from shardtune.run_dir.view.chart import Series, render_chart, smoothed
from shardtune.run_dir.view.curves import metric_names

COLOURS = ("#1f6feb", "#d9730d", "#2da44e", "#8250df", "#cf222e", "#0a7ea4", "#9a6700", "#bf3989", "#57606a", "#1a7f37")


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


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    first = next((outcome.metric for outcome in outcomes if outcome.metric), None)
    others = sorted({name for outcome in outcomes for name in outcome.metrics} - {first})
    names = [*([first] if first else []), *others]
    rows = [("POINT", "STATE", *names, "BEST STEP", "OVERRIDES")]
    for outcome in in_order(outcomes):
        values = (f"{outcome.metrics[name]:.4f}" if name in outcome.metrics else "" for name in names)
        step = "" if outcome.best_step is None else str(outcome.best_step)
        rows.append((str(outcome.number), outcome.state, *values, step, " ".join(outcome.overrides)))
    return rows


def write_sweep_report(sweep: SweepPlan, states: Mapping[int, str]) -> tuple[Path, list[Outcome]]:
    """Writes SWEEP_DIR/report.html from the run directories so far; returns its path and the outcomes."""
    outcomes = [
        outcome_of(point.number, point.overrides, states[point.number], _json(point.run_dir / RESULTS))
        for point in sweep.points
    ]
    curves = {point.number: read_events(point.run_dir) for point in sweep.points}
    path = sweep.sweep_dir / REPORT
    write_atomically(path, render_sweep_page(sweep.sweep_dir.name, outcomes, curves))
    return path, outcomes


def render_sweep_page(name: str, outcomes: Sequence[Outcome], curves: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """The page of a sweep: the table, and charts of each dev metric and the loss with a line for each point."""
    colours = {outcome.number: COLOURS[at % len(COLOURS)] for at, outcome in enumerate(in_order(outcomes))}
    metrics = ["loss", *metric_names([event for events in curves.values() for event in _dev(events)])]
    charts = []
    for key in metrics:
        values = {
            number: [(e["step"], e[key]) for e in _dev(curves[number]) if key in _metrics(e)] for number in colours
        }
        lines = [Series(str(number), values[number], colour, dots=True) for number, colour in colours.items()]
        charts.append(render_chart(f"dev {key}", lines))
    losses = {
        number: [(e["step"], e["loss"]) for e in events if e["event"] == "step" and e["loss"] is not None]
        for number, events in curves.items()
    }
    lines = [Series(str(number), smoothed(losses[number]), colours[number]) for number in colours]
    charts.append(render_chart("training loss, smoothed", lines))
    head, *rows = _rows(outcomes)
    return render_template(
        "sweep.html.j2",
        name=name,
        head=[cell.lower() for cell in head],
        rows=rows,
        colours={str(number): colour for number, colour in colours.items()},
        charts=charts,
    )


def _dev(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [event for event in events if event["event"] == "eval" and event["split"] == "dev"]


def _metrics(event: Mapping[str, Any]) -> set[str]:
    return {key for key, value in event.items() if isinstance(value, float) and key != "time"}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
