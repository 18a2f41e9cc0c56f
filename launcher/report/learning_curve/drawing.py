"""A learning curve as SVG: the runs, the law through them with its 95 % range, and its continuation to more rows."""

import math
from collections.abc import Iterator
from html import escape

from shardtune.launcher.report.learning_curve.curve import TIMES, LearningCurve
from shardtune.launcher.report.sections.numbers import shown
from shardtune.run_dir.view.chart import short, ticks_within
from shardtune.run_dir.view.curves import bounds_of

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 340, 64, 20, 40, 44
BLUE, GREY = "#1f6feb", "#57606a"
NUM_DRAWN = 60
"""Points of a line."""
MOST_RANGE = 1.5
"""The axis holds the range of the law up to so many times what the values span; a wider one is cut off."""


def draw(curve: LearningCurve) -> str:
    """An <svg> with rows on a logarithmic axis; an empty string if there are no runs."""
    if not curve.points:
        return ""
    return _Drawing(curve).render()


class _Drawing:
    """A curve and its axes."""

    def __init__(self, curve: LearningCurve) -> None:
        self.curve = curve
        end = TIMES[-1] if curve.law is not None else 1
        fewest = min(point.rows for point in curve.points)
        self.x_from, self.x_to = math.log(fewest) - 0.1, math.log(end * curve.most) + 0.1
        grid = (
            math.exp(math.log(fewest) + (math.log(end * curve.most) - math.log(fewest)) * at / NUM_DRAWN)
            for at in range(NUM_DRAWN + 1)
        )
        self.rows = sorted({*grid, float(curve.most)}) if curve.law is not None else []
        self.law = [curve.expected(rows) for rows in self.rows]
        self.ticks = self._y_ticks()

    def _y_ticks(self) -> list[float]:
        values = [point.value for point in self.curve.points] + [at.value for at in self.law]
        low, high = min(values), max(values)
        room = MOST_RANGE * (high - low)
        ranges = [edge for at in self.law for edge in (at.low, at.high)]
        low, high = max(low - room, min([low, *ranges])), min(high + room, max([high, *ranges]))
        return ticks_within(low, high, bounds_of(self.curve.metric.partition("/")[2]))

    def x(self, rows: float) -> float:
        return LEFT + (math.log(rows) - self.x_from) / (self.x_to - self.x_from) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        share = (min(max(value, low), high) - low) / ((high - low) or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def render(self) -> str:
        title = f"{self.curve.metric} by training rows"
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" ']
        parts.append(f'aria-label="{escape(title)}"><desc>{escape(self._in_words())}</desc>')
        parts.append(f'<text x="{LEFT}" y="18" class="title">{escape(title)}</text>')
        parts += [*self._axes(), *self._band(), *self._line(), *self._runs()]
        return "".join([*parts, "</svg>"])

    def _in_words(self) -> str:
        return "; ".join(f"{shown(at.mean)} with {rows:,} rows" for rows, at in self.curve.by_rows.items())

    def _axes(self) -> Iterator[str]:
        for value in self.ticks:
            y = self.y(value)
            yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
        more = [times * self.curve.most for times in TIMES] if self.law else []
        for number, rows in enumerate([*self.curve.by_rows, *more]):
            y = HEIGHT - BOTTOM + 16 + 13 * (number % 2)  # in two lines, because neighbors may be near
            yield f'<text x="{self.x(rows):.1f}" y="{y}" text-anchor="middle">{rows:,}</text>'

    def _band(self) -> Iterator[str]:
        """The range of the law."""
        if not self.law:
            return
        upper = [f"{self.x(rows):.1f},{self.y(at.high):.1f}" for rows, at in zip(self.rows, self.law, strict=True)]
        lower = [f"{self.x(rows):.1f},{self.y(at.low):.1f}" for rows, at in zip(self.rows, self.law, strict=True)]
        yield f'<polygon points="{" ".join([*upper, *reversed(lower)])}" fill="{BLUE}" fill-opacity="0.13"/>'

    def _line(self) -> Iterator[str]:
        """The law: a line through the runs, dashed where it continues beyond them."""
        for is_beyond in (False, True):
            points = [
                f"{self.x(rows):.1f},{self.y(at.value):.1f}"
                for rows, at in zip(self.rows, self.law, strict=True)
                if (rows >= self.curve.most if is_beyond else rows <= self.curve.most)
            ]
            dashes = ' stroke-dasharray="5 4"' if is_beyond else ""
            if points:
                yield f'<polyline points="{" ".join(points)}" fill="none" stroke="{BLUE}" stroke-width="1.8"{dashes}/>'

    def _runs(self) -> Iterator[str]:
        for point in self.curve.points:
            yield (
                f'<circle cx="{self.x(point.rows):.1f}" cy="{self.y(point.value):.1f}" r="3.5" fill="{GREY}" '
                f'fill-opacity="0.8"><title>{point.rows:,} rows: {shown(point.value)}</title></circle>'
            )
