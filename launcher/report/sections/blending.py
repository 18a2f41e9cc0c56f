"""What models between the base and the tuned one can do, as `shardtune blend` has found it."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from shardtune.launcher.report.parts import Figure, Part, Table, Text
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.sections.numbers import shown
from shardtune.run_dir.view.chart import Series, render_chart
from shardtune.run_dir.view.curves import BLUE, GREEN, ORANGE, as_float, bounds_of

COLOURS = (ORANGE, GREEN)


def blending(record: RunRecord) -> list[Part]:
    """A sentence, a curve for each metric over alpha, and the table; empty if nothing was blended."""
    found = record.blend
    points = [point for point in found.get("alphas", ()) if isinstance(point, dict)]
    if not points:
        return []
    best = f"{as_float(found.get('best')):g}"
    text = f"Between the base model (alpha 0) and the tuned one (alpha 1), alpha {best} is the best"
    kept = [str(name) for name in found.get("kept", ())]
    stays = [f"Not in the base model, and so as tuned at every alpha: {', '.join(kept[:6])}."] if kept else []
    curves = [drawing for drawing in _curves(found, points) if drawing]
    return [
        Text([f"{text} {found.get('rule', '')}.", *stays]),
        *([Figure([Markup(drawing) for drawing in curves])] if curves else []),
        _table(found, points),
    ]


def _columns(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(head, key in a point, metric) of what was measured: dev, test, and the sets of other skills."""
    metric = str(found.get("metric", "loss"))
    others = found.get("retention", {})
    return [
        ("dev", "dev", metric),
        ("test", "test", metric),
        *((name, name, str(of.get("metric", "loss"))) for name, of in others.items() if isinstance(of, Mapping)),
    ]


def _metrics(point: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = point.get(key) if key in ("dev", "test") else point.get("retention", {}).get(key)
    return found if isinstance(found, Mapping) else {}


def _curves(found: Mapping[str, Any], points: list[dict[str, Any]]) -> Iterator[str]:
    """An <svg> for each metric, with a line for each set of rows."""
    by_metric: dict[str, list[Series]] = {}
    for name, key, metric in _columns(found):
        values = [(as_float(point.get("alpha")), as_float(_metrics(point, key).get(metric))) for point in points]
        lines = by_metric.setdefault(metric, [])
        colour = BLUE if name == "dev" else COLOURS[len(lines) % len(COLOURS)]
        lines.append(Series(name, values, colour, dots=True))
    for metric, lines in by_metric.items():
        yield render_chart(f"{metric} over alpha", lines, bounds_of(metric))


def _table(found: Mapping[str, Any], points: list[dict[str, Any]]) -> Table:
    columns = [(name, key, metric) for name, key, metric in _columns(found) if any(_metrics(p, key) for p in points)]
    rows = []
    for point in points:
        mark = " (best)" if point.get("alpha") == found.get("best") else ""
        rows.append((f"{as_float(point.get('alpha')):g}{mark}", *(_cell(_metrics(point, k), m) for _, k, m in columns)))
    heads = [f"{name} {metric}" for name, _, metric in columns]
    has_intervals = any("[" in cell for row in rows for cell in row)
    note = "In brackets: 95% intervals." if has_intervals else ""
    return Table("Blended models", ("alpha", *heads), rows, has_row_heads=True, note=note)


def _cell(metrics: Mapping[str, Any], metric: str) -> str:
    interval = metrics.get("intervals", {}).get(metric)
    text = shown(metrics.get(metric))
    return text if interval is None else f"{text} [{shown(interval[0])}, {shown(interval[1])}]"
