"""The curves of a run, from its history."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardtune.run_dir.view.chart import (
    HEIGHT,
    MAX_POINTS,
    WIDTH,
    Series,
    means,
    render_chart,
    smoothed,
    thinned_columns,
)
from shardtune.run_dir.view.history import Column, History

BLUE, PALE, ORANGE, GREEN = "#1f6feb", "#9ec5fe", "#d9730d", "#2da44e"
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#59636e}.title{font-size:13px;fill:#1f2328;font-weight:600}"
    ".grid{stroke:#eaeef2}"
)
MAX_MEANS = 500
"""What is smoothed of a long curve are so many means: the average then spans a part of the training, not few steps."""
FREE = (-math.inf, math.inf)
POSITIVE = (0.0, math.inf)
SHARES = ("accuracy", "f1", "precision", "recall", "exact_match", "rouge", "mfu")
"""Words in the names of metrics between 0 and 1."""
BOUNDS = {
    **dict.fromkeys(("mcc", "pearson", "spearman"), (-1.0, 1.0)),
    **dict.fromkeys(("bleu", "chrf"), (0.0, 100.0)),
    **dict.fromkeys(("loss", "perplexity", "mse", "mae", "kl_to_base"), POSITIVE),
}
OF_STEPS = (
    ("learning rate", "lr", 1.0, POSITIVE, False),
    ("gradient norm, before clipping", "grad_norm", 1.0, POSITIVE, True),
    ("tokens per second, without padding", "tokens_per_s", 1.0, POSITIVE, True),
    ("MFU, %", "mfu", 100.0, POSITIVE, True),
    ("time lost waiting for the slowest rank, %", "lost_share", 100.0, (0.0, 100.0), True),
    ("peak memory of a rank, GB", "memory_bytes", 1e-9, POSITIVE, False),
    ("GPU utilization, %", "gpu_utilization", 100.0, (0.0, 100.0), True),
    ("power of a GPU, W", "gpu_power_w", 1.0, POSITIVE, True),
    ("highest GPU temperature, °C", "gpu_temperature_c", 1.0, POSITIVE, False),
)
"""(title, key of a `step` event, factor, bounds, whether it is smoothed) of the curves after the loss and metrics."""


@dataclass(frozen=True)
class Line:
    """One line of a curve; all values are finite."""

    name: str
    x: Column
    """Steps, ascending."""
    y: Column
    colour: str
    dots: bool = False
    """Whether each point is marked: those of evaluations."""
    is_noisy: bool = False
    """Whether it is drawn pale, with its moving average over it."""
    is_one_of_many: bool = False
    """Whether it stands beside those of other runs, so that only the average of a noisy one is drawn."""

    def series(self) -> list[Series]:
        """What is drawn of it, in at most a few hundred points."""
        points = _points(*thinned_columns(self.x, self.y, MAX_POINTS))
        if not self.is_noisy:
            return [Series(self.name, points, self.colour, dots=self.dots)]
        average = smoothed(_points(*means(self.x, self.y, MAX_MEANS)))
        if self.is_one_of_many:
            return [Series(self.name, average, self.colour)]
        return [Series(self.name, points, PALE), Series("smoothed", average, self.colour)]


@dataclass(frozen=True)
class Curve:
    """A chart of a run."""

    title: str
    lines: Sequence[Line]
    bounds: tuple[float, float] = FREE
    """The lowest and highest value that there can be."""

    def render(self) -> str:
        """Its <svg>."""
        return render_chart(self.title, [part for line in self.lines for part in line.series()], self.bounds)


def curves_of(history: History) -> list[Curve]:
    """The curves that have a point: loss, the dev metrics, learning rate, gradient norm, speed, lost time, memory."""
    dev = dev_evaluations(history)
    loss = [
        Line("each step", *history.of_steps("loss"), BLUE, is_noisy=True),
        Line("dev", *of_evaluations(dev, "loss"), ORANGE, dots=True),
    ]
    drawn = [Curve("loss", loss, POSITIVE if all((line.y >= 0).all() for line in loss) else FREE)]
    for names in same_metrics(dev):
        line = Line(" = ".join(names), *of_evaluations(dev, names[0]), ORANGE, dots=True)
        drawn.append(Curve(f"dev {' = '.join(names)}", [line], bounds_of(names[0])))
    for title, key, factor, bounds, is_noisy in OF_STEPS:
        x, y = history.of_steps(key)
        name = "each report" if is_noisy else title
        drawn.append(Curve(title, [Line(name, x, y * factor, BLUE if is_noisy else GREEN, is_noisy=is_noisy)], bounds))
    return [curve for curve in drawn if any(len(line.x) for line in curve.lines)]


def dev_evaluations(history: History) -> list[Mapping[str, Any]]:
    """The `eval` events of dev."""
    return [event for event in history.of("eval") if event.get("split") == "dev"]


def charts(history: History) -> list[str]:
    """One <svg> per curve that has a point."""
    return [curve.render() for curve in curves_of(history)]


def picture(history: History, num_columns: int = 2) -> str:
    """All curves as one SVG file; an empty string if there are none."""
    drawn = charts(history)
    placed = [
        chart.replace(
            "<svg ",
            f'<svg x="{number % num_columns * WIDTH}" y="{number // num_columns * HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" ',
            1,
        )
        for number, chart in enumerate(drawn)
    ]
    width, height = num_columns * WIDTH, math.ceil(len(drawn) / num_columns) * HEIGHT
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    return f"{head}<style>{STYLE}</style>{ground}{''.join(placed)}</svg>\n" if drawn else ""


def bounds_of(metric: str) -> tuple[float, float]:
    """The lowest and the highest value that a metric of this name can have."""
    if metric in BOUNDS:
        return BOUNDS[metric]
    return (0.0, 1.0) if any(word in metric for word in SHARES) else FREE


def same_metrics(evaluations: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The metrics of these `eval` events in groups that have the same values in each event, in order of the alphabet.

    Those that are the same by chance are not one: only what is equal in at least two events, and f1_micro beside
    accuracy, of which it is another name.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    names = sorted({key for event in evaluations for key, value in event.items() if is_metric(key, value)})
    for name in names:
        values = tuple(event.get(name) for event in evaluations)
        is_varied = len({value for value in values if value is not None}) > 1
        key = values if is_varied or name in ("accuracy", "f1_micro") else (name,)
        groups.setdefault(key, []).append(name)
    return [tuple(group) for group in groups.values()]


def is_metric(key: str, value: Any) -> bool:
    """Whether this entry of an `eval` event is a metric that can be drawn."""
    return isinstance(value, float) and key not in ("time", "loss")


def as_float(value: Any) -> float:
    """The value as a float; NaN if it is not a number (JSON has no NaN)."""
    return float(value) if isinstance(value, int | float) else math.nan


def of_evaluations(evaluations: Sequence[Mapping[str, Any]], key: str) -> tuple[Column, Column]:
    """(steps, finite values) of a metric."""
    points = {as_float(event.get("step")): as_float(event.get(key)) for event in evaluations}
    finite = sorted((x, y) for x, y in points.items() if math.isfinite(x) and math.isfinite(y))
    found = np.array(finite, dtype=np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _points(x: Column, y: Column) -> list[tuple[float, float]]:
    return list(zip(x.tolist(), y.tolist(), strict=True))
