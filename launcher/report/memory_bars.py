"""Memory by term of several settings -> an SVG with a bar for each, beside what a GPU has."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from shardtune.run_dir.view.chart import nice_ticks, short

WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 900, 12, 20, 64, 40, 16
CLIP = 2.0
"""Bars end at so many times of what a GPU has; their number says the rest."""
COLOURS = {
    "weights": "#0969da",
    "second copy of weights": "#54aeff",
    "whole vectors": "#0550ae",
    "gathered weights": "#80ccff",
    "gradients": "#bf3989",
    "gradients on their way": "#ff80c8",
    "master weights": "#1a7f37",
    "optimizer states": "#4ac26b",
    "activations": "#bf8700",
    "logits and loss": "#eac54f",
    "working memory": "#bc4c00",
    "update": "#8250df",
    "buckets": "#c297ff",
    "offload buffer": "#a475f9",
    "CUDA context": "#57606a",
    "NCCL buffers": "#8c959f",
    "fragmentation": "#d0d7de",
}
OTHER = "#24292f"
"""The colour of a term that has none."""


@dataclass(frozen=True)
class Bar:
    """The memory of one setting."""

    name: str
    terms: Mapping[str, float]
    """Term -> GiB."""


def render_bars(title: str, bars: Sequence[Bar], capacity: float) -> str:
    """An <svg> with the bars, a line at the capacity in GiB, and a legend of the terms that are large enough to see."""
    end = min(CLIP * capacity, max(capacity, *(sum(bar.terms.values()) for bar in bars)) * 1.02)
    height = TOP + ROW * len(bars) + 26
    bottom = height - 22

    def x_at(size: float) -> float:
        return LEFT + min(size, end) / end * (WIDTH - LEFT - RIGHT)

    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    parts.append(f'<text x="{LEFT}" y="17" class="title">{escape(title)}</text>')
    parts += _legend(bars)
    for tick in nice_ticks(0.0, end, 8):
        if tick <= end:
            x = x_at(tick)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" class="grid"/>')
            parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{short(tick)}</text>')
    for number, bar in enumerate(bars):
        parts += _bar(bar, TOP + number * ROW, x_at)
    x = x_at(capacity)
    parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{bottom}" stroke="#cf222e" stroke-width="2"/>')
    return "".join([*parts, "</svg>"])


def _bar(bar: Bar, top: float, x_at: Callable[[float], float]) -> Iterator[str]:
    """A bar below its name; each part shows its term and size to the mouse."""
    total = sum(bar.terms.values())
    yield f'<text x="{LEFT}" y="{top + 13}">{escape(bar.name)}: {total:,.1f} GiB</text>'
    start = 0.0
    for term, size in bar.terms.items():
        width = x_at(start + size) - x_at(start)
        if width > 0:
            yield (
                f'<rect x="{x_at(start):.1f}" y="{top + 18}" width="{width:.1f}" height="{BAR}" '
                f'fill="{COLOURS.get(term, OTHER)}"><title>{escape(term)}: {size:,.2f} GiB</title></rect>'
            )
        start += size


def _legend(bars: Sequence[Bar]) -> Iterator[str]:
    """The colours of the terms, in two lines at most."""
    largest: dict[str, float] = {}
    for bar in bars:
        for term, size in bar.terms.items():
            largest[term] = max(size, largest.get(term, 0.0))
    x, y = float(LEFT), 34
    for term in (term for term, size in largest.items() if size >= 0.05):
        width = 7 * len(term) + 26
        if x + width > WIDTH:
            x, y = float(LEFT), y + 16
        yield f'<rect x="{x:.0f}" y="{y - 8}" width="10" height="8" fill="{COLOURS.get(term, OTHER)}"/>'
        yield f'<text x="{x + 14:.0f}" y="{y}">{escape(term)}</text>'
        x += width
