"""Two metrics against each other -> an SVG drawing: a path through the evaluations, in their order."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from shardtune.run_dir.quality.retention import TradeOff
from shardtune.run_dir.view.chart import short, ticks_within

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 300, 58, 18, 58, 46
MOST_POINTS = 200
"""Of a path with more evaluations every n-th is drawn, and the best, the first and the last one."""
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Path:
    """The evaluations of one set."""

    name: str
    points: Sequence[TradeOff]
    colour: str


def render_scatter(
    title: str, x_name: str, y_name: str, paths: Sequence[Path], x_bounds: Bounds, y_bounds: Bounds
) -> str:
    """An <svg>; an empty string if no path has a point. The first evaluation is hollow, the best one has a ring.

    `…_bounds` are the lowest and the highest value that there can be.
    """
    paths = [Path(path.name, _thinned(path.points), path.colour) for path in paths if path.points]
    if not paths:
        return ""
    x_at, x_ticks = _scale([point.target for path in paths for point in path.points], x_bounds, LEFT, WIDTH - RIGHT)
    y_at, y_ticks = _scale([point.value for path in paths for point in path.points], y_bounds, HEIGHT - BOTTOM, TOP)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts.append(f"<desc>{escape('; '.join(map(_in_words, paths)))}</desc>")
    parts.append(f'<text x="{LEFT}" y="15" class="title">{escape(title)}</text>')
    for tick in y_ticks:
        y = y_at(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for tick in x_ticks:
        x = x_at(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 8}" text-anchor="start">{escape(y_name)}</text>')
    for path in paths:
        parts += _drawn(path, [(x_at(point.target), y_at(point.value)) for point in path.points])
    return "".join([*parts, *_legend(paths), "</svg>"])


def _drawn(path: Path, places: Sequence[tuple[float, float]]) -> list[str]:
    """A line in the order of the steps, a dot for each evaluation with its numbers, a ring around the best one."""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{line}" fill="none" stroke="{path.colour}" stroke-width="1.2" opacity="0.6"/>']
    for number, (point, (x, y)) in enumerate(zip(path.points, places, strict=True)):
        about = f"{path.name}, step {point.step:,}: {short(point.target)}, {short(point.value)}"
        is_hollow = number == 0 and len(places) > 1
        fill = "none" if is_hollow else path.colour
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{fill}" stroke="{path.colour}" stroke-width="1.6">'
            f"<title>{escape(about)}</title></circle>"
        )
        if point.is_best:
            parts.append(
                f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="7.5" fill="none" stroke="{path.colour}" '
                'stroke-width="2"/>'
            )
    return parts


def _legend(paths: Sequence[Path]) -> list[str]:
    """The names that the width has room for, at the right of the title line, unless there is only one."""
    parts, x = [], float(LEFT)
    for path in paths if len(paths) > 1 else []:
        width = 7 * len(path.name) + 28
        if x + width > WIDTH:
            break
        parts.append(f'<rect x="{x:.0f}" y="23" width="10" height="4" fill="{path.colour}"/>')
        parts.append(f'<text x="{x + 14:.0f}" y="29">{escape(path.name)}</text>')
        x += width
    return parts


def _scale(
    values: Sequence[float], bounds: Bounds, begin: float, end: float
) -> tuple[Callable[[float], float], list[float]]:
    """What places a value between these two coordinates, and the ticks of the axis."""
    ticks = ticks_within(min(values), max(values), bounds)
    low, high = min(ticks[0], *values), max(ticks[-1], *values)

    def at(value: float) -> float:
        return begin + (value - low) / ((high - low) or 1.0) * (end - begin)

    return at, ticks


def _thinned(points: Sequence[TradeOff]) -> list[TradeOff]:
    stride = math.ceil(len(points) / MOST_POINTS)
    last = len(points) - 1
    return [point for number, point in enumerate(points) if number % stride == 0 or number == last or point.is_best]


def _in_words(path: Path) -> str:
    """What a path shows, for those who do not see it."""
    first, last = path.points[0], path.points[-1]
    best = next((point for point in path.points if point.is_best), None)
    text = f"{path.name}: from {short(first.target)}, {short(first.value)} at step {first.step}"
    text += f" to {short(last.target)}, {short(last.value)} at step {last.step}"
    return text if best is None else f"{text}; best {short(best.target)}, {short(best.value)} at step {best.step}"
