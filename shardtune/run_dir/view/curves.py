"""The curves of a run, from its events."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shardtune.run_dir.view.chart import HEIGHT, WIDTH, Series, render_chart, smoothed

BLUE, PALE, ORANGE, GREEN = "#1f6feb", "#9ec5fe", "#d9730d", "#2da44e"
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#59636e}.title{font-size:13px;fill:#1f2328;font-weight:600}"
    ".grid{stroke:#eaeef2}"
)


def charts(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """One <svg> per curve that has a point: loss, the dev metrics, learning rate, gradient norm, speed, time lost by
    waiting, memory."""
    steps = [event for event in events if event["event"] == "step"]
    evaluations = [event for event in events if event["event"] == "eval"]

    def of_steps(key: str) -> list[tuple[float, float]]:
        return [(step["step"], as_float(step[key])) for step in steps]

    def of_dev(key: str) -> list[tuple[float, float]]:
        return [(e["step"], as_float(e[key])) for e in evaluations if e["split"] == "dev" and key in e]

    loss = [
        Series("each step", of_steps("loss"), PALE),
        Series("smoothed", smoothed(of_steps("loss")), BLUE),
        Series("dev", of_dev("loss"), ORANGE, dots=True),
    ]
    drawn = [render_chart("loss", loss)]
    for key in metric_names(evaluations):
        drawn.append(render_chart(f"dev {key}", [Series(key, of_dev(key), ORANGE, dots=True)]))
    drawn.append(render_chart("learning rate", [Series("lr", of_steps("lr"), GREEN)]))
    norms = [
        Series("each step", of_steps("grad_norm"), PALE),
        Series("smoothed", smoothed(of_steps("grad_norm")), BLUE),
    ]
    drawn.append(render_chart("gradient norm, before clipping", norms))
    speed = [Series("each report", of_steps("tokens_per_s"), PALE)]
    speed.append(Series("smoothed", smoothed(of_steps("tokens_per_s")), BLUE))
    drawn.append(render_chart("tokens per second, without padding", speed))
    lost = [(step["step"], 100 * step["lost_share"]) for step in steps if "lost_share" in step]
    waiting = [Series("each report", lost, PALE), Series("smoothed", smoothed(lost), BLUE)]
    drawn.append(render_chart("time lost waiting for the slowest rank, %", waiting))
    memory = [(x, y / 1e9) for x, y in of_steps("memory_bytes")]
    drawn.append(render_chart("peak memory of a rank, GB", [Series("GB", memory, GREEN)]))
    return [chart for chart in drawn if chart]


def picture(events: Sequence[Mapping[str, Any]], num_columns: int = 2) -> str:
    """All curves as one SVG file; an empty string if there are none."""
    drawn = charts(events)
    placed = [
        chart.replace(
            "<svg ",
            f'<svg x="{number % num_columns * WIDTH}" y="{number // num_columns * HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" ',
            1,
        )
        for number, chart in enumerate(drawn)
    ]
    width, height = num_columns * WIDTH, math.ceil(len(drawn) / num_columns) * HEIGHT
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    return f"{head}<style>{STYLE}</style>{ground}{''.join(placed)}</svg>\n" if drawn else ""


def metric_names(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics of these `eval` events, in order of the alphabet; f1_micro only where it is not the accuracy."""
    names = {key for event in evaluations for key, value in event.items() if is_metric(key, value)}
    if "accuracy" in names and all(event.get("f1_micro") == event.get("accuracy") for event in evaluations):
        names -= {"f1_micro"}
    return sorted(names)


def is_metric(key: str, value: Any) -> bool:
    """Whether this entry of an `eval` event is a metric that can be drawn."""
    return isinstance(value, float) and key not in ("time", "loss")


def as_float(value: Any) -> float:
    """The value as a float; NaN if it is not a number (JSON has no NaN)."""
    return float(value) if isinstance(value, int | float) else math.nan
