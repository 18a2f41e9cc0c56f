"""Several runs -> what they have in common and where they differ: results, settings, seeds, curves over each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from shardtune.launcher.report.charts import Charts, axes_of, charts_of
from shardtune.launcher.report.intervals import Spread, interval_of, spread_of
from shardtune.launcher.report.parts import Section, Table
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.retention.of_runs import retained_by_runs, table_of_runs
from shardtune.launcher.report.sections.numbers import in_list, shown
from shardtune.launcher.report.sections.settings import leaves
from shardtune.launcher.report.sections.summary import device_hours, hours_name, main_metric, state
from shardtune.launcher.report.templates import render_template
from shardtune.metrics.direction import is_lower_better
from shardtune.recipe.load import learning_hash
from shardtune.run_dir.view.curves import (
    FREE,
    POSITIVE,
    Curve,
    Line,
    bounds_of,
    dev_evaluations,
    is_metric,
    of_evaluations,
    same_metrics,
)
from shardtune.run_dir.view.history import History
from shardtune.run_dir.view.step_line import duration

COLOURS = ("#1f6feb", "#d9730d", "#2da44e", "#8250df", "#cf222e", "#0a7ea4", "#9a6700", "#bf3989", "#57606a", "#1a7f37")
MOST_METRICS = 8
"""Metrics of a split in the table of results."""
SEED = "train.seed"
NO_DIFFERENCE = ("data.cache_dir", "report.name", "report.wandb", "report.project")
"""Keys that may differ without a difference."""


@dataclass(frozen=True)
class Comparison:
    """Runs that are compared."""

    records: Sequence[RunRecord]
    """The best first."""

    @cached_property
    def names(self) -> list[str]:
        """A name for each run: that of its directory, with the one above it where two are alike."""
        names = [record.name for record in self.records]
        return [
            f"{record.run_dir.absolute().parent.name}/{record.name}"
            if names.count(record.name) > 1 and record.run_dir is not None
            else record.name
            for record in self.records
        ]

    @cached_property
    def metric(self) -> str | None:
        """The metric by which they are ordered."""
        return next((metric for record in self.records if (metric := main_metric(record)) is not None), None)

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Numbers of the runs that learn the same with different seeds, by what they learn."""
        groups: dict[str, list[int]] = {}
        for number, record in enumerate(self.records):
            groups.setdefault(_without_seed(record) or f"run {number}", []).append(number)
        return groups

    @cached_property
    def colours(self) -> list[str]:
        """A colour for each run; runs that differ in their seeds alone share one, if there are others."""
        group_of = {number: at for at, group in enumerate(self.groups.values()) for number in group}
        is_by_group = 1 < len(self.groups) < len(self.records)
        return [
            COLOURS[(group_of[number] if is_by_group else number) % len(COLOURS)] for number in range(len(self.records))
        ]

    @cached_property
    def differences(self) -> dict[str, list[str]]:
        """Dotted key of the recipe -> its value in each run, of the keys whose values differ."""
        values = [
            dict(leaves(record.recipe.model_dump(mode="json"))) if record.recipe else {} for record in self.records
        ]
        keys = dict.fromkeys(key for each in values for key in each)
        columns = {key: [each.get(key, "") for each in values] for key in keys if key not in NO_DIFFERENCE}
        return {key: column for key, column in columns.items() if len(set(column)) > 1}

    def spreads(self, group: Sequence[int]) -> dict[str, Spread]:
        """split/metric -> its spread over the runs of a group that have it."""
        found = {}
        for split, metric in self.columns:
            values = [self.records[number].scores(split).get(metric) for number in group]
            finite = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
            if finite:
                found[f"{split}/{metric}"] = spread_of(finite)
        return found

    @cached_property
    def columns(self) -> list[tuple[str, str]]:
        """(split, metric) of the table of results, the main metric first."""
        found = []
        for split in ("dev", "test"):
            scores = [record.scores(split) for record in self.records]
            known = dict.fromkeys(name for each in scores for name, value in each.items() if _is_score(name, value))
            if "accuracy" in known and all(each.get("f1_micro") == each.get("accuracy") for each in scores):
                known.pop("f1_micro", None)
            names = sorted(known, key=lambda name: (name != self.metric, name == "loss", name))
            found += [(split, name) for name in names[:MOST_METRICS]]
        return found


def compare_runs(records: Sequence[RunRecord]) -> Comparison:
    """The comparison of these runs, the best first; those without results last."""
    metric = Comparison(records).metric

    def place(record: RunRecord) -> float:
        value = (
            record.scores("dev").get(metric or "") if record.scores("dev") else record.scores("test").get(metric or "")
        )
        if not isinstance(value, int | float) or not math.isfinite(value):
            return math.inf
        return value if _is_lower_better(record, metric) else -value

    return Comparison(sorted(records, key=place))


def _is_lower_better(record: RunRecord, metric: str | None) -> bool:
    chosen = (record.results or {}).get("chosen_by") or {}
    return bool(chosen.get("lower_is_better", metric is not None and is_lower_better(metric)))


def _is_score(name: str, value: Any) -> bool:
    return name == "loss" or is_metric(name, value)


def _without_seed(record: RunRecord) -> str | None:
    """The hash of what a run learns but for the seed; None if its recipe cannot be read."""
    if record.recipe is None:
        return None
    train = record.recipe.train.model_copy(update={"seed": 0})
    return learning_hash(record.recipe.model_copy(update={"train": train}))


def render_comparison(comparison: Comparison, title: str = "Comparison") -> str:
    """The page of several runs."""
    sections = [
        Section("results", "Results", [results_table(comparison)]),
        Section("seeds", "Over seeds", seeds_tables(comparison)),
        Section("retention", "Retention", retained_by_runs(*_retaining(comparison))),
        Section("settings", "Settings that differ", differences_tables(comparison)),
    ]
    return render_template(
        "comparison.html.j2",
        name=f"{title} of {len(comparison.records)} runs",
        summary=sentences(comparison),
        sections=[section for section in sections if section.parts],
        charts=overlaid(comparison),
    )


def retention_tables(comparison: Comparison) -> list[Table]:
    """What each run retains of other skills; empty without retention sets."""
    table = table_of_runs(*_retaining(comparison))
    return [table] if table is not None else []


def _retaining(comparison: Comparison) -> tuple[Sequence[str], Sequence[RunRecord], Sequence[str], str | None]:
    return comparison.names, comparison.records, comparison.colours, comparison.metric


def sentences(comparison: Comparison) -> list[str]:
    """What the comparison shows, in words."""
    keys = [key for key in comparison.differences if key != SEED]
    seeds = " and their seeds" if keys and SEED in comparison.differences else ""
    found = f"They differ in {in_list(keys[:6])}{' and more' if len(keys) > 6 else ''}{seeds}." if keys else ""
    if not keys and SEED in comparison.differences:
        found = "They differ in their seeds alone."
    texts = [found] if found else []
    metric, best = comparison.metric, comparison.records[0]
    for split in ("dev", "test"):
        if metric is not None and isinstance(best.scores(split).get(metric), int | float):
            interval = interval_of(metric, best.scores(split))
            about = f" (95% interval {shown(interval.low)} to {shown(interval.high)})" if interval else ""
            texts.append(
                f"The best by {metric} is {comparison.names[0]}: {shown(best.scores(split)[metric])} on {split}{about}."
            )
            break
    for group in comparison.groups.values():
        spreads = comparison.spreads(group)
        named = [name for name in (f"test/{metric}", f"dev/{metric}") if name in spreads]
        if len(group) > 1 and named and spreads[named[0]].number > 1:
            texts.append(f"{_group_name(comparison, group)}: {named[0]} is {_in_words(spreads[named[0]])}.")
    return [" ".join(texts)] if texts else []


def _in_words(spread: Spread) -> str:
    mean, low, high = spread.mean, spread.mean - spread.half_width, spread.mean + spread.half_width
    return (
        f"{shown(mean)} ± {shown(spread.deviation)} over {spread.number} seeds "
        f"(95% interval of the mean {shown(low)} to {shown(high)})"
    )


def results_table(comparison: Comparison) -> Table:
    """A row for each run."""
    scores = [f"{split}/{name}" for split, name in comparison.columns]
    units = {hours_name(record.start) for record in comparison.records if record.start is not None}
    head = ["run", "state", "best step", *scores, "tokens/s", "wall time", units.pop() if len(units) == 1 else "hours"]
    rows = []
    for name, record in zip(comparison.names, comparison.records, strict=True):
        values = (shown(record.scores(split).get(metric)) for split, metric in comparison.columns)
        rates = record.history.of_steps("tokens_per_s")[1]
        start = record.start or {}
        ranks = start.get("world_size")
        hours = f"{device_hours(record, ranks):,.3g}" if isinstance(ranks, int) else ""
        rate = f"{float(rates.mean()):,.0f}" if len(rates) else ""
        best = (record.results or {}).get("best_step")
        best_step = f"{best:,}" if isinstance(best, int) else ""
        rows.append((name, _state(record), best_step, *values, rate, duration(record.time_use.total_s), hours))
    return Table("Runs, the best first", head, rows, has_row_heads=True, colours=comparison.colours)


def _state(record: RunRecord) -> str:
    """`finished`, or how far it is."""
    return "finished" if record.results is not None else state(record).partition(" (")[0]


def seeds_tables(comparison: Comparison) -> list[Table]:
    """Mean, standard deviation and interval of each group of runs that differ in their seeds alone."""
    rows = []
    for group in comparison.groups.values():
        if len(group) < 2:
            continue
        for name, spread in comparison.spreads(group).items():
            interval = ""
            if spread.number > 1:
                interval = f"{shown(spread.mean - spread.half_width)} to {shown(spread.mean + spread.half_width)}"
            cells = (name, shown(spread.mean), f"± {shown(spread.deviation)}", str(spread.number), interval)
            rows.append((_group_name(comparison, group), *cells))
    head = ("runs", "metric", "mean", "standard deviation", "n", "95% interval of the mean (t)")
    return [Table("Runs that differ in their seeds alone", head, rows, has_row_heads=True)] if rows else []


def _group_name(comparison: Comparison, group: Sequence[int]) -> str:
    """What tells the runs of a group from the other groups."""
    keys = [key for key, column in comparison.differences.items() if len({column[number] for number in group}) == 1]
    first = group[0]
    told = " ".join(f"{key}={comparison.differences[key][first]}" for key in keys[:3])
    return told or ", ".join(comparison.names[number] for number in group[:4]) + (", …" if len(group) > 4 else "")


def differences_tables(comparison: Comparison) -> list[Table]:
    """The settings that differ: a row for each run, a column for each key."""
    keys = list(comparison.differences)
    if not keys:
        return []
    rows = [
        (name, *(comparison.differences[key][number] for key in keys)) for number, name in enumerate(comparison.names)
    ]
    return [Table("Recipe", ("run", *keys), rows, has_row_heads=True, colours=comparison.colours)]


def overlaid(comparison: Comparison) -> Charts:
    """The curves of all runs over each other: loss, dev metrics, learning rate, gradient norm, speed."""
    histories = [record.history for record in comparison.records]
    return overlay(list(zip(comparison.names, histories, comparison.colours, strict=True)))


def overlay(runs: Sequence[tuple[str, History, str]]) -> Charts:
    """The charts of runs, each with its name and its colour."""
    dev = [dev_evaluations(history) for _, history, _ in runs]
    plots = [("training loss, smoothed", "loss", FREE, True)]
    plots += [
        ("learning rate", "lr", POSITIVE, False),
        ("gradient norm, before clipping", "grad_norm", POSITIVE, True),
        ("tokens per second, without padding", "tokens_per_s", POSITIVE, True),
    ]
    curves: list[tuple[Curve, list[int]]] = []
    for title, key, bounds, is_noisy in plots:
        lines = [
            Line(name, *history.of_steps(key), colour, is_noisy=is_noisy, is_one_of_many=True)
            for name, history, colour in runs
        ]
        curves.append(_kept(title, lines, bounds))
    of_dev = []
    for names in [("loss",), *same_metrics([event for events in dev for event in events])]:
        lines = [
            Line(name, *of_evaluations(events, names[0]), colour, dots=True)
            for (name, _, colour), events in zip(runs, dev, strict=True)
        ]
        of_dev.append(_kept(f"dev {' = '.join(names)}", lines, bounds_of(names[0])))
    drawn = [(curve, numbers) for curve, numbers in [curves[0], *of_dev, *curves[1:]] if numbers]
    axes = [axes_of(history) for _, history, _ in runs]
    return charts_of([curve for curve, _ in drawn], axes, [number for _, numbers in drawn for number in numbers])


def _kept(title: str, lines: Sequence[Line], bounds: tuple[float, float]) -> tuple[Curve, list[int]]:
    """The curve of the lines that have points, and the numbers of their runs."""
    numbers = [number for number, line in enumerate(lines) if len(line.x)]
    return Curve(title, [lines[number] for number in numbers], bounds), numbers
