"""What `shardtune blend` has found, as JSON values and as a table."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shardtune.trainer.commands.blending.choice import Choice, Measure, Point

WIDTH = 120


def as_json(
    points: Sequence[Point],
    choice: Choice,
    dev: Measure,
    others: Mapping[str, Measure],
    *,
    kept: Sequence[str],
    folder: Path,
) -> dict[str, Any]:
    """The content of blend.json."""
    return {
        "best": choice.best,
        "rule": choice.rule,
        "metric": dev.metric,
        "lower_is_better": dev.lower_is_better,
        "retention": {
            name: {"metric": of.metric, "lower_is_better": of.lower_is_better} for name, of in others.items()
        },
        "alphas": [
            {
                "alpha": point.alpha,
                "score": choice.scores[point.alpha],
                "dev": dict(point.dev),
                **({"test": dict(point.test)} if point.test else {}),
                "retention": {name: dict(metrics) for name, metrics in point.others.items()},
            }
            for point in points
        ],
        "kept": list(kept),
        "folder": str(folder),
    }


def render(found: Mapping[str, Any]) -> str:
    """A row for each alpha, the best one marked, and what was exported."""
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    metric, others = found["metric"], found["retention"]
    has_test = any("test" in point for point in found["alphas"])
    heads = [f"dev {metric}", *([f"test {metric}"] if has_test else [])]
    for head in ("alpha", *heads, *(f"{name} {of['metric']}" for name, of in others.items())):
        table.add_column(head, justify="right")
    for point in found["alphas"]:
        cells = [_cell(point["dev"], metric), *([_cell(point["test"], metric)] if has_test else [])]
        cells += [_cell(point["retention"][name], of["metric"]) for name, of in others.items()]
        mark = "* " if point["alpha"] == found["best"] else ""
        table.add_row(f"{mark}{point['alpha']:g}", *cells)
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    lines += ["", f"* alpha {found['best']:g} is the best {found['rule']}; exported to {found['folder']}"]
    if found["kept"]:
        lines.append(f"not in the base model, and so as tuned at every alpha: {listed(found['kept'])}")
    return "\n".join(lines)


def listed(names: Sequence[str], limit: int = 6) -> str:
    """The names, of very many the first ones."""
    more = [f"and {len(names) - limit:,} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more])


def _cell(metrics: Mapping[str, Any], metric: str) -> str:
    value = metrics.get(metric)
    if not isinstance(value, int | float):
        return ""
    interval = metrics.get("intervals", {}).get(metric)
    return f"{value:.4f}" + ("" if interval is None else f" ({interval[0]:.4f} to {interval[1]:.4f})")
