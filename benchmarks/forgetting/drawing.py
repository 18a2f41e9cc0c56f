"""Points of two metrics as an SVG: what is learned to the right, what is kept upwards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, MARGIN = 520, 360, 70
COLORS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#bab0ac")
NUM_TICKS = 5
LABEL_WIDTH, LABEL_HEIGHT = 75, 13
"""Labels nearer to each other than this would overlap."""


@dataclass(frozen=True)
class Mark:
    """A point with its name; `is_step` for one of several on the way to another."""

    name: str
    learned: float
    kept: float
    is_step: bool = False


@dataclass(frozen=True)
class Axis:
    """What a metric is called, and its range on the page."""

    title: str
    low: float
    high: float
    is_reversed: bool

    @classmethod
    def over(cls, title: str, values: Sequence[float], *, lower_is_better: bool) -> "Axis":
        """An axis with room around these values; better values are further along it."""
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(title, low - room, high + room, lower_is_better)

    def place(self, value: float) -> float:
        """Where a value is, from 0 to 1."""
        share = (value - self.low) / (self.high - self.low)
        return 1 - share if self.is_reversed else share

    def ticks(self) -> list[float]:
        """Round values to write along the axis, about NUM_TICKS of them."""
        least = (self.high - self.low) / NUM_TICKS
        power = 10.0 ** math.floor(math.log10(least))
        step = next(step for times in (1, 2, 5, 10) if (step := times * power) >= least)
        return [at * step for at in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def draw(title: str, marks: Sequence[Mark], learned: Axis, kept: Axis) -> str:
    """The picture. Marks of steps are small, and a line joins them."""

    def at(mark: Mark) -> tuple[float, float]:
        return MARGIN + learned.place(mark.learned) * WIDTH, 40 + (1 - kept.place(mark.kept)) * HEIGHT

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + MARGIN + 150} {HEIGHT + 110}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{MARGIN}" y="24" font-size="15">{escape(title)}</text>',
        f'<rect x="{MARGIN}" y="40" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>',
    ]
    for value in learned.ticks():
        x = MARGIN + learned.place(value) * WIDTH
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + 58}" text-anchor="middle">{value:.3g}</text>')
        parts.append(f'<line x1="{x:.1f}" y1="40" x2="{x:.1f}" y2="{HEIGHT + 40}" stroke="#eee"/>')
    for value in kept.ticks():
        y = 40 + (1 - kept.place(value)) * HEIGHT
        parts.append(f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        parts.append(f'<line x1="{MARGIN}" y1="{y:.1f}" x2="{MARGIN + WIDTH}" y2="{y:.1f}" stroke="#eee"/>')
    steps = [at(mark) for mark in marks if mark.is_step]
    if steps:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in steps)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#999" stroke-dasharray="4 3"/>')
    labels: list[tuple[float, float]] = []
    for number, mark in enumerate(marks):
        x, y = at(mark)
        color = "#999" if mark.is_step else COLORS[number % len(COLORS)]
        label, below = escape(mark.name), y + 4
        while any(abs(x - other) < LABEL_WIDTH and abs(below - beside) < LABEL_HEIGHT for other, beside in labels):
            below += LABEL_HEIGHT
        labels.append((x, below))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3.5 if mark.is_step else 6}" fill="{color}"/>')
        parts.append(f'<text x="{x + 9:.1f}" y="{below:.1f}" fill="#222">{label}</text>')
    parts.append(
        f'<text x="{MARGIN + WIDTH / 2}" y="{HEIGHT + 84}" text-anchor="middle">{escape(learned.title)}</text>'
    )
    middle = 40 + HEIGHT / 2
    parts.append(
        f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{escape(kept.title)}</text></svg>'
    )
    return "\n".join(parts) + "\n"
