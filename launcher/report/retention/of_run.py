"""What the model retains of other skills: a table of the sets, and each against the metric that was learned."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from shardtune.launcher.report.parts import Figure, Part, Table
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.scatter import Path, render_scatter
from shardtune.launcher.report.sections.numbers import shown
from shardtune.launcher.report.sections.summary import main_metric
from shardtune.metrics.numbers import change_text
from shardtune.run_dir.quality.retention import RetentionSet, targets_of
from shardtune.run_dir.view.curves import FREE, Curve, Line, bounds_of

COLOURS = ("#1f6feb", "#d9730d", "#2da44e", "#8250df", "#cf222e", "#0a7ea4", "#9a6700", "#bf3989")


def retained(record: RunRecord) -> list[Part]:
    """The table and the drawings; empty without retention sets."""
    table = retention_table(record)
    if table is None:
        return []
    drawings = trade_offs(record)
    return [table, *([Figure(drawings)] if drawings else [])]


def retention_table(record: RunRecord) -> Table | None:
    """Each set before training, with the best model and now; None without any."""
    sets = record.retention
    rows = [
        (
            each.name,
            each.task,
            f"{each.metric}{' (lower is better)' if each.lower_is_better else ''}",
            *(shown(value) for value in (each.before, each.best, each.last)),
            change_text(each.change) or "–",
        )
        for each in sets
    ]
    head = ("set", "task", "metric", "before training", "best model", "newest", "change")
    note = "The change is from before training to the best model, or to the newest one while there is none."
    return (
        Table("What is retained of other skills", head, rows, has_row_heads=True, note=note, colours=colours(sets))
        if rows
        else None
    )


def trade_offs(record: RunRecord) -> list[str]:
    """For each metric of the sets an <svg>: it against the main metric on dev, a point for each evaluation."""
    target = main_metric(record)
    if target is None:
        return []
    targets = targets_of(record.history.events, target, record.results)
    best_step = (record.results or {}).get("best_step")
    by_colour = list(zip(record.retention, colours(record.retention), strict=True))
    drawings = [
        render_scatter(
            f"retention {metric} against dev {target}",
            f"dev {target}",
            metric,
            [
                Path(each.name, each.trade_off(targets, best_step), colour)
                for each, colour in by_colour
                if each.metric == metric
            ],
            bounds_of(target),
            bounds_of(metric),
        )
        for metric in dict.fromkeys(each.metric for each in record.retention)
    ]
    return [Markup(drawing) for drawing in drawings if drawing]


def retention_curves(record: RunRecord) -> list[Curve]:
    """Loss and metrics of the sets by step, one curve for each metric that sets share."""
    events = [event for event in record.history.of("retention") if isinstance(event.get("set"), str)]
    names = list(dict.fromkeys(event["set"] for event in events))
    metrics = dict.fromkeys(["loss", *(str(event.get("metric")) for event in events)])
    drawn = []
    for metric in metrics:
        lines = []
        for name, colour in zip(names, _colours(len(names)), strict=True):
            of_set = [event for event in events if event["set"] == name]
            points = {event["step"]: event.get(metric) for event in of_set if metric in ("loss", event.get("metric"))}
            lines.append(_line(name, points, colour))
        kept = [line for line in lines if len(line.x)]
        if kept:
            drawn.append(Curve(f"retention {metric}", kept, FREE if metric == "loss" else bounds_of(metric)))
    return drawn


def _line(name: str, points: dict[object, object], colour: str) -> Line:
    finite = sorted(
        (float(x), float(y))
        for x, y in points.items()
        if isinstance(x, int) and isinstance(y, int | float) and math.isfinite(y)
    )
    found = np.array(finite, dtype=np.float64).reshape(-1, 2)
    return Line(name, found[:, 0], found[:, 1], colour, dots=True)


def colours(sets: Sequence[RetentionSet]) -> list[str]:
    """A colour for each set."""
    return _colours(len(sets))


def _colours(number: int) -> list[str]:
    return [COLOURS[at % len(COLOURS)] for at in range(number)]
