"""What a run's time went to, as a chart: from the whole of it down to what trained."""

from html import escape

from shardtune.run_dir.view.step_line import duration
from shardtune.run_dir.view.time_use import CAUSES, TimeUse

WIDTH, ROW, LEFT, RIGHT, TOP = 880, 22, 250, 150, 34
GREEN, RED, GREY = "#2da44e", "#d9730d", "#8c959f"
SHOWN = 0.0005
"""Causes with a smaller part of the time than this are not drawn."""


def render_waterfall(use: TimeUse) -> str:
    """An <svg> with a bar for the whole time, one that hangs from it for each cause, the largest first, and one for
    what is left: useful training. An empty string for a run that has not begun."""
    total = use.total_s
    if not total:
        return ""
    lost = sorted(((spent, cause) for cause, spent in use.seconds.items() if cause != "useful"), reverse=True)
    rows = [("the whole time", 0.0, total, GREY)]
    left = total
    for spent, cause in lost:
        if spent > SHOWN * total:
            rows.append((CAUSES[cause], left - spent, left, RED))
        left -= spent
    rows.append((CAUSES["useful"], 0.0, use.seconds["useful"], GREEN))
    height = TOP + ROW * len(rows) + 8
    title = "where the time went"
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">']
    parts.append(f'<text x="14" y="20" class="title">{title}</text>')
    parts += [_row(TOP + ROW * number, *row, total) for number, row in enumerate(rows)]
    return "".join([*parts, "</svg>"])


def _row(y: int, name: str, begin: float, end: float, colour: str, total: float) -> str:
    """A bar from second `begin` to second `end` of the whole, with its name and its numbers."""
    scale = (WIDTH - LEFT - RIGHT) / total
    bar = f'x="{LEFT + begin * scale:.1f}" y="{y}" width="{max(1.0, (end - begin) * scale):.1f}" height="{ROW - 6}"'
    numbers = f"{(end - begin) / total:.1%}  {duration(end - begin)}"
    return (
        f'<text x="{LEFT - 10}" y="{y + 12}" text-anchor="end">{escape(name)}</text>'
        f'<rect {bar} rx="2" fill="{colour}"/>'
        f'<text x="{WIDTH - RIGHT + 10}" y="{y + 12}">{numbers}</text>'
    )


def render_line(use: TimeUse, num_named: int = 4) -> str:
    """`87.3 % useful of 2:13:05; 4.1 % evaluating, …`: the goodput and the largest causes of the rest."""
    if use.goodput is None:
        return ""
    rest = sorted(((spent, cause) for cause, spent in use.seconds.items() if cause != "useful" and spent), reverse=True)
    named = ", ".join(f"{spent / use.total_s:.1%} {CAUSES[cause]}" for spent, cause in rest[:num_named])
    return f"{use.goodput:.1%} useful of {duration(use.total_s)}{f'; {named}' if named else ''}"
