"""Series -> an SVG line chart that needs nothing else: no script, no font, no network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 240, 58, 14, 34, 30
Numbers = NDArray[np.float64]
MAX_POINTS = 800
"""At most this many points of a series are drawn: about two for each pixel of the width."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(step, value) in the order of the steps; non-finite values are not drawn."""
    colour: str
    dots: bool = False
    """Whether each point is marked, for series of few points."""


def render_chart(title: str, series: Sequence[Series], bounds: tuple[float, float] = (-math.inf, math.inf)) -> str:
    """An <svg> with axes, lines and a legend; an empty string if no series has a point.

    `bounds` are the lowest and the highest value that there can be, which no tick of the axis leaves.
    """
    drawn = [(line, thinned([p for p in line.points if math.isfinite(p[1])])) for line in series]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return ""
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    x_ticks, y_ticks = nice_ticks(0.0, max(*xs, 1.0)), ticks_within(min(ys), max(ys), bounds)
    x_from, x_to = 0.0, max(*xs, 1.0)
    y_from, y_to = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def x_at(x: float) -> float:
        return LEFT + (x - x_from) / (x_to - x_from) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_from) / ((y_to - y_from) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts.append(f"<desc>{escape('; '.join(_in_words(line, len(drawn)) for line in series))}</desc>")
    parts.append(f'<text x="{LEFT}" y="15" class="title">{escape(title)}</text>')
    for y in y_ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(y):.1f}" y2="{y_at(y):.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y_at(y) + 4:.1f}" text-anchor="end">{short(y)}</text>')
    for x in x_ticks:
        if x_from <= x <= x_to:
            parts.append(f'<text x="{x_at(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{short(x)}</text>')
    legend = LEFT + 8.0
    # Names that do not fit would leave the others to be guessed.
    has_legend = len(drawn) > 1 and legend + sum(7 * len(line.name) + 28 for line, _ in drawn) <= WIDTH
    for line, points in drawn:
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.6"/>')
        if line.dots:
            parts += [f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{line.colour}"/>' for x, y in points]
        if has_legend:
            parts.append(f'<rect x="{legend:.0f}" y="22" width="10" height="4" fill="{line.colour}"/>')
            parts.append(f'<text x="{legend + 14:.0f}" y="28">{escape(line.name)}</text>')
            legend += 7 * len(line.name) + 28
    return "".join([*parts, "</svg>"])


def _in_words(line: Series, num_lines: int) -> str:
    """What a line shows, for those who do not see it."""
    points = [(x, y) for x, y in line.points if math.isfinite(y)]
    name = f"{line.name}: " if num_lines > 1 else ""
    if not points:
        return f"{name}no points"
    (first, begin), (last, end) = points[0], points[-1]
    (least_at, least), (most_at, most) = (pick(points, key=lambda point: point[1]) for pick in (min, max))
    return (
        f"{name}{short(begin)} at {short(first)}, {short(end)} at {short(last)}; lowest {short(least)} at "
        f"{short(least_at)}, highest {short(most)} at {short(most_at)}"
    )


def ticks_within(low: float, high: float, bounds: tuple[float, float]) -> list[float]:
    """nice_ticks, without those beyond the bounds, which take their place."""
    lower, upper = min(bounds[0], low), max(bounds[1], high)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a flat line: a margin on the sides that have room
        margin = abs(high) / 2 if high else 0.5 if upper - lower < 10 else 1.0
        low, high = max(lower, low - margin), min(upper, high + margin)
    ticks = nice_ticks(low, high)
    room = 1e-9 * (ticks[-1] - ticks[0])
    return [tick for tick in ticks if lower - room <= tick <= upper + room] or [low, high]


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from the last one below `low` to the first above `high`."""
    span = high - low
    if span <= max(1e-9 * max(abs(low), abs(high)), 1e-30):  # a flat line gets a margin above and below
        margin = max(abs(high), 1e-30) if high else 1.0
        low, high = low - margin / 2, high + margin / 2
        span = high - low
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= wanted)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, last + 1)]


def short(value: float) -> str:
    """The number of a tick, in about seven characters at most."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:.6g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def smoothed(points: Sequence[tuple[float, float]], weight: float = 0.9) -> list[tuple[float, float]]:
    """The exponential moving average of the finite points, corrected for the bias of its start."""
    average = norm = 0.0
    out = []
    for x, y in points:
        if math.isfinite(y):
            average, norm = weight * average + (1 - weight) * y, weight * norm + (1 - weight)
            out.append((x, average / norm))
    return out


def thinned(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` of the points, with every spike (thinned_columns). All values must be finite."""
    if len(points) <= limit:
        return list(points)
    x, y = np.array(points, dtype=np.float64).T
    kept_x, kept_y = thinned_columns(x, y, limit)
    return list(zip(kept_x.tolist(), kept_y.tolist(), strict=True))


def thinned_columns(x: Numbers, y: Numbers, limit: int) -> tuple[Numbers, Numbers]:
    """At most `limit` of the points, in order: both ends, and the lowest and the highest of each part between them.

    Every n-th point alone would lose the spikes. `x` ascends, and all values are finite.
    """
    if len(x) <= limit:
        return x, y
    from tsdownsample import MinMaxDownsampler  # only long curves need it

    num_inner = max(2, (limit - 2) // 2 * 2)
    downsampler = MinMaxDownsampler()  # type: ignore[no-untyped-call]
    inner = 1 + downsampler.downsample(np.ascontiguousarray(y[1:-1]), n_out=num_inner).astype(np.int64)
    kept = np.unique(np.concatenate(([0], inner, [len(x) - 1])))
    return x[kept], y[kept]


def means(x: Numbers, y: Numbers, limit: int) -> tuple[Numbers, Numbers]:
    """(last x, mean y) of at most `limit` parts of about equal numbers of points; the points themselves if so few."""
    if len(x) <= limit:
        return x, y
    begins = np.arange(limit) * len(x) // limit
    ends = np.append(begins[1:], len(x))
    return x[ends - 1], np.add.reduceat(y, begins) / (ends - begins)
