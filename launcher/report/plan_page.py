"""What `shardtune plan --auto` finds -> one HTML page; a single file without links."""

from collections.abc import Iterator

from shardtune.launcher.report.memory_bars import Bar, render_bars
from shardtune.launcher.report.templates import render_template
from shardtune.planner.advice.advice import (
    HEAD,
    SCALING_HEAD,
    Advice,
    figures,
    machine_name,
    needs,
    scaling_row,
    setting_name,
)
from shardtune.planner.advice.search import Candidate
from shardtune.planner.forecast.forecast import GIB
from shardtune.run_dir.view.chart import Series, render_chart

MOST_BARS = 10
COLOUR, IDEAL = "#0969da", "#8c959f"


def render_plan(name: str, advice: Advice) -> str:
    """The page of this advice for a recipe of this name."""
    best = advice.best or advice.searched.nearest
    shown = [best, *advice.searched.others, *(one for one in advice.searched.too_large if one is not best)]
    memory = [Bar(setting_name(one), _terms(one)) for one in shown[:MOST_BARS]]
    return render_template(
        "plan.html.j2",
        name=f"Plan of {name}",
        machine=f"{machine_name(advice.cluster)}, {advice.cluster.gpu.memory_gib:g} GiB each",
        best=advice.best,
        overrides=best.setting.overrides,
        needs="" if advice.best else needs(best),
        details=best.forecast.describe(),
        notes=[advice.about_host(), *(f"{one.name}: {advice.about_change(one)}" for one in advice.changes)],
        bars=render_bars(
            "Memory of a GPU at its peak, in GiB (red: what it has)", memory, best.forecast.capacity / GIB
        ),
        head=["setting", *HEAD],
        settings=[(setting_name(one), *figures(one)) for one in shown if one.fits],
        too_large=[(setting_name(one), needs(one)) for one in advice.searched.too_large],
        charts=[chart for chart in _charts(advice) if chart],
        scaling_head=SCALING_HEAD,
        scaling=[scaling_row(point) for point in advice.curve],
        about_nodes=advice.about_nodes(),
        smallest=None if advice.smallest is None else machine_name(advice.smallest.forecast.cluster),
        smallest_overrides="" if advice.smallest is None else advice.smallest.setting.overrides,
    )


def _terms(candidate: Candidate) -> dict[str, float]:
    memory = candidate.forecast.memory
    return {name: size / GIB for name, size in {**memory.terms, **memory.around}.items()}


def _charts(advice: Advice) -> Iterator[str]:
    """Speed and GPU-hours against the number of GPUs."""
    fitting = [(point.cluster.world_size, point.best) for point in advice.curve if point.best is not None]
    if not fitting:
        return
    speed = [(float(gpus), best.forecast.planned.tokens_per_step / best.step_s) for gpus, best in fitting]
    first_gpus, first_speed = speed[0]
    ideal = [(gpus, first_speed * gpus / first_gpus) for gpus, _ in speed]
    yield render_chart(
        "Tokens a second, by GPUs",
        [Series("planned", speed, COLOUR, dots=True), Series("in proportion", ideal, IDEAL)],
    )
    hours = [(float(gpus), best.forecast.gpu_hours) for gpus, best in fitting if best.forecast.gpu_hours is not None]
    yield render_chart("GPU-hours of the run, by GPUs", [Series("GPU-hours", hours, COLOUR, dots=True)])
