"""A scatter plot of published against predicted throughput, as SVG."""

import math
from collections.abc import Iterator, Sequence

from benchmarks.planner.throughput import Comparison

SIZE, MARGIN = 480, 60
COLORS = {"a100_40gb": "#4c78a8", "a100_80gb": "#54a24b", "h100_80gb": "#e45756"}


def scatter(train: Sequence[Comparison], held_out: Sequence[Comparison]) -> str:
    """The plot: filled dots were used for the fit, rings are held out; the lines are equality and 30 % off."""
    values = [value for found in (*train, *held_out) for value in (found.predicted, found.row.tokens_per_s_per_gpu)]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def at(value: float) -> float:
        return (math.log10(value) - low) / (high - low) * SIZE

    def point(found: Comparison, *, is_ring: bool) -> str:
        x, y, color = at(found.row.tokens_per_s_per_gpu), SIZE - at(found.predicted), COLORS[found.row.gpu]
        fill = 'fill="none"' if is_ring else f'fill="{color}"'
        return f'<circle cx="{x + MARGIN:.1f}" cy="{y + MARGIN / 3:.1f}" r="4" stroke="{color}" {fill}/>'

    def lines() -> Iterator[str]:
        for factor, style in ((1.0, "#000"), (1.3, "#aaa"), (1 / 1.3, "#aaa")):
            shift = math.log10(factor) / (high - low) * SIZE
            yield (
                f'<line x1="{MARGIN}" y1="{SIZE - shift + MARGIN / 3:.1f}" x2="{MARGIN + SIZE}" '
                f'y2="{MARGIN / 3 - shift:.1f}" stroke="{style}"/>'
            )
        for power in range(low, high + 1):
            place = at(10**power)
            yield (
                f'<text x="{MARGIN - 6}" y="{SIZE - place + MARGIN / 3 + 4:.1f}" text-anchor="end">{10**power:,}</text>'
                f'<text x="{MARGIN + place:.1f}" y="{SIZE + MARGIN / 3 + 18:.1f}" text-anchor="middle">'
                f"{10**power:,}</text>"
            )

    def legend() -> Iterator[str]:
        for number, (gpu, color) in enumerate(COLORS.items()):
            y = MARGIN / 3 + 20 + 18 * number
            yield f'<circle cx="{MARGIN + 16}" cy="{y}" r="4" fill="{color}"/>'
            yield f'<text x="{MARGIN + 26}" y="{y + 4}">{gpu.replace("_", " ").upper()}</text>'
        yield f'<text x="{MARGIN + 12}" y="{MARGIN / 3 + 78}">rings: held out</text>'

    body = [*lines(), *legend()]
    body += [point(found, is_ring=False) for found in train] + [point(found, is_ring=True) for found in held_out]
    axis = f'<text x="{MARGIN + SIZE / 2}" y="{SIZE + MARGIN}" text-anchor="middle">published tokens/s per GPU</text>'
    side = f'<text transform="translate(14 {SIZE / 2 + MARGIN / 3}) rotate(-90)" text-anchor="middle">predicted</text>'
    frame = f'<rect x="{MARGIN}" y="{MARGIN / 3}" width="{SIZE}" height="{SIZE}" fill="none" stroke="#000"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE + 2 * MARGIN} {SIZE + 1.5 * MARGIN:.0f}" '
            'font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="#fff"/>',
            frame,
            *body,
            axis,
            side,
            "</svg>\n",
        ]
    )
