"""Curves as a chart of characters, drawn by plotext: axes, ticks and lines in a given number of cells. Pure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text
from textual_plotext import Plot

from shardtune.run_dir.follow.curve import Axis
from shardtune.run_dir.view.chart import nice_ticks, short, thinned
from shardtune.run_dir.view.step_line import duration

FINE, DOTS = "braille", "dot"
GREY = 8
MAX_POWER = 308.0
"""Of the largest float."""
TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class DrawnLine:
    """One line of a chart."""

    points: Points
    """(x, y), all finite, in the order of x."""
    colour: int
    """One of the 16 colours of the terminal."""
    marker: str = FINE
    """FINE, which draws 2 by 4 dots in a cell, or a character."""
    is_joined: bool = True
    is_behind: bool = False
    """Whether it lies behind a smoothed line: then its few most extreme values do not widen the chart."""


def draw_chart(
    lines: Sequence[DrawnLine],
    width: int,
    height: int,
    *,
    axis: Axis,
    is_log: bool,
    label: Callable[[float], str] = short,
) -> Text:
    """The chart in `height` lines of `width` cells. With `is_log`, values that have no logarithm are not drawn."""
    drawn = [(line, _scaled(line.points, is_log=is_log, limit=4 * width)) for line in lines]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn or width < 16 or height < 4:
        return _message("no values yet" if not drawn else "no room", width, height)
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for line, points in drawn for y in _counted(line, points)]
    plot = Plot()
    plot.theme("clear")
    plot.plotsize(width, height)
    plot._set_size(width, height)  # plotsize alone limits it to the size of the terminal as it was at first
    plot.xaxes(True, False)
    plot.yaxes(True, False)
    x_low, x_high = _span(min(xs), max(xs))
    y_low, y_high = _span(min(ys), max(ys))
    plot.xlim(x_low, x_high)
    plot.ylim(y_low, y_high)
    y_ticks = _y_ticks(y_low, y_high, height, is_log=is_log)
    plot.yticks(y_ticks, [label(10 ** min(tick, MAX_POWER) if is_log else tick) for tick in y_ticks])
    x_ticks = _x_ticks(x_low, x_high, width, axis)
    plot.xticks(x_ticks, [duration(tick) if axis == "time" else short(tick) for tick in x_ticks])
    for line, points in drawn:
        place = [x for x, _ in points], [y for _, y in points]
        draw = plot.plot if line.is_joined and len(points) > 1 else plot.scatter
        draw(*place, color=line.colour, marker=line.marker)
    text = Text.from_ansi(plot.build().removesuffix("\n"))
    text.no_wrap = True
    return text


def _message(message: str, width: int, height: int) -> Text:
    above = "\n" * max(0, (height - 1) // 2)
    return Text(above + message.center(max(0, width)), style="bright_black", no_wrap=True)


def _scaled(points: Points, *, is_log: bool, limit: int) -> list[tuple[float, float]]:
    shown = [(x, math.log10(y)) for x, y in points if y > 0] if is_log else list(points)
    return thinned(shown, limit)


def _counted(line: DrawnLine, points: Points) -> list[float]:
    """The values that the chart must have room for."""
    ys = [y for _, y in points]
    outer = len(ys) // 50 if line.is_behind else 0
    return sorted(ys)[outer : len(ys) - outer]


def _span(low: float, high: float) -> tuple[float, float]:
    """The limits of an axis, which are never equal."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    margin = abs(high) / 2 or 0.5
    return low - margin, high + margin


def _y_ticks(low: float, high: float, height: int, *, is_log: bool) -> list[float]:
    ticks = [tick for tick in nice_ticks(low, high, max(2, 2 * height // 5)) if low <= tick <= high]
    powers = [float(power) for power in range(math.ceil(low), math.floor(high) + 1)] if is_log else []
    return powers if len(powers) >= 3 else ticks or [low, high]


def _x_ticks(low: float, high: float, width: int, axis: Axis) -> list[float]:
    wanted = max(2, width // 14)
    if axis == "step":
        return [tick for tick in nice_ticks(low, high, wanted) if low <= tick <= high and tick == int(tick)] or [low]
    days = 86400.0 * max(1, math.ceil((high - low) / 86400 / wanted))
    step = next((each for each in TIME_STEPS_S if (high - low) / each <= wanted), days)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)] or [low]
