"""A chart draws few points, and still every spike."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.run_dir.view.chart import MAX_POINTS, Series, render_chart, thinned
from shardtune.run_dir.view.curves import charts
from shardtune.run_dir.view.history import history_of


@pytest.mark.parametrize("at", [1, 777, 1_001, 12_345, 19_998])
@pytest.mark.parametrize("spike", [9.0, -9.0])
def test_one_spike_among_20000_points_is_kept(at: int, spike: float) -> None:
    points = [(float(step), spike if step == at else 1.0) for step in range(20_000)]
    kept = thinned(points)
    assert (float(at), spike) in kept
    assert len(kept) <= MAX_POINTS


@given(st.lists(st.floats(-1e3, 1e3), max_size=200), st.integers(4, 50))
def test_thinned_points_are_few_in_order_and_keep_the_ends_and_the_extremes(values: list[float], limit: int) -> None:
    points = list(enumerate(values))
    kept = thinned(points, limit)
    assert len(kept) <= max(limit, 0)
    assert kept == sorted(set(kept)) and set(kept) <= set(points)
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert {min(values), max(values)} <= {value for _, value in kept}
    if len(points) <= limit:
        assert kept == points


def test_a_curve_of_a_long_run_shows_its_spike_beside_steps_without_a_number() -> None:
    step = {"event": "step", "lr": 1e-5, "grad_norm": 1.0, "tokens_per_s": 1.0, "memory_bytes": 1}
    losses = [9.5 if number == 12_345 else None if number % 7 == 0 else 1.0 for number in range(20_000)]
    loss, flat = (
        charts(history_of({**step, "step": number, "loss": value} for number, value in enumerate(values)))[0]
        for values in (losses, [loss and 1.0 for loss in losses])
    )
    assert loss.count(",") <= 3 * MAX_POINTS
    assert "nan" not in loss
    top_of, top_of_flat = (min(float(pair.split(",")[1]) for pair in _pairs(svg)) for svg in (loss, flat))
    assert top_of < top_of_flat


def _pairs(svg: str) -> list[str]:
    return svg.split('<polyline points="')[1].split('"')[0].split()


def test_a_short_series_is_drawn_whole() -> None:
    points = [(float(step), math.sin(step)) for step in range(MAX_POINTS)]
    assert len(_pairs(render_chart("x", [Series("a", points, "red")]))) == MAX_POINTS
