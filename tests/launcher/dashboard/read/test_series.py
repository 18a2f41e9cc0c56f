"""Curves keep their spikes and gaps, whatever is left out, and take no more memory than they may."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shardtune.launcher.dashboard.read.axes import Series, Window
from shardtune.launcher.dashboard.read.downsample import downsample
from shardtune.launcher.dashboard.read.lines import parse_lines
from shardtune.launcher.dashboard.read.overview import POINTS, Overview
from shardtune.launcher.dashboard.read.series import SeriesStore
from tests.launcher.dashboard.conftest import BEGIN, START, step, steps, text_of, write_run

FULL = Window("step")


def curve(run_dir: Path, metric: str = "train/loss", window: Window = FULL, store: SeriesStore | None = None) -> Series:
    (found,) = (store or SeriesStore()).series(run_dir, [metric], [metric], window, 1000.0).values()
    return found


@given(arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e6, 1e6)), st.integers(8, 100))
def test_the_highest_and_the_lowest_and_both_ends_are_kept(y: Any, points: int) -> None:
    x = np.arange(len(y), dtype=np.float64)
    shown_x, shown_y = downsample(x, y, points)
    assert len(shown_x) <= points
    assert (shown_y.max(), shown_y.min()) == (y.max(), y.min())
    assert (shown_x[0], shown_x[-1]) == (x[0], x[-1])
    assert (np.diff(shown_x) > 0).all()
    assert np.array_equal(y[shown_x.astype(int)], shown_y)


def test_every_spike_of_a_smooth_curve_survives_at_any_zoom() -> None:
    y = np.linspace(4, 1, 100_000)
    spikes = np.arange(500, 100_000, 1000)
    y[spikes] = 9.0
    y[spikes + 1] = -9.0
    shown_x, shown_y = downsample(np.arange(100_000.0), y, 1200)
    assert set(spikes) <= set(shown_x[shown_y == 9.0]) and set(spikes + 1) <= set(shown_x[shown_y == -9.0])
    every_nth = y[:: 100_000 // 1200]
    assert (every_nth == 9.0).sum() < len(spikes), "which every n-th point alone would lose"


def test_gaps_are_kept_and_infinities_are_gaps() -> None:
    y = np.ones(10_000)
    y[5000:6000], y[7], y[9] = np.nan, np.inf, -np.inf
    x = np.arange(10_000.0)
    shown_x, shown_y = downsample(x, y, 100)
    gaps = shown_x[np.isnan(shown_y)]
    assert 7.0 in gaps and ((gaps >= 5000) & (gaps < 6000)).sum() >= 2
    assert not ((shown_x >= 5000) & (shown_x < 6000) & np.isfinite(shown_y)).any() and np.isfinite(shown_y[0])
    assert np.isnan(downsample(x, np.full(10_000, np.nan), 100)[1]).all()


def test_a_clock_that_was_set_back_makes_no_curve_turn_back(tmp_path: Path) -> None:
    events = [*steps(5), {**step(6, loss=0.5), "time": 900.0}, *steps(4, 7)]
    x = curve(write_run(tmp_path, [BEGIN, START, *events]), window=Window("time")).x
    assert (np.diff(x) >= 0).all() and len(x) == 10


def test_steps_that_are_there_twice_are_drawn_as_they_were_done_last(tmp_path: Path) -> None:
    events = [*steps(6), step(5, loss=50.0), step(6, loss=60.0), step(7, loss=70.0)]
    shown = curve(write_run(tmp_path, events))
    assert (shown.x.tolist(), shown.y.tolist()[-3:]) == ([1, 2, 3, 4, 5, 6, 7], [50.0, 60.0, 70.0])


def test_a_zoom_has_the_points_of_the_file(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, [BEGIN, START, *steps(3000)])
    shown = curve(run_dir, window=Window("step", 1000.0, 1100.0, 200))
    assert (shown.x.tolist(), shown.count) == ([float(number) for number in range(999, 1102)], 101)
    assert shown.y.tolist() == [1 / number for number in range(999, 1102)]
    assert len(curve(run_dir, window=Window("tokens", points=100)).x) <= 100


def test_what_is_kept_stays_below_its_limit_and_is_read_again_when_it_is_asked_for(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(number), [BEGIN, START, *steps(2000)]) for number in range(5)]
    store = SeriesStore(most_bytes=300_000)
    for run_dir in [*runs, *runs]:
        assert curve(run_dir, store=store).count == 2000
        assert store.num_bytes <= 300_000
    assert store.unread(runs[0], ["train/loss"], FULL, 1000.0) == 0, "it is drawn, though its columns are gone"
    assert store.unread(runs[0], ["train/loss"], Window("step", 5.0), 1000.0) > 0
    assert curve(runs[0], window=Window("step", 1999.0), store=store).x.tolist() == [1998.0, 1999.0, 2000.0]


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    run_dir, store = write_run(tmp_path, [BEGIN, START, *steps(100)]), SeriesStore()
    curve(run_dir, store=store)
    line = text_of([step(101, loss=7.0)])
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(line)
    assert store.unread(run_dir, ["train/loss"], FULL, 1000.0) == len(line)
    assert curve(run_dir, store=store).y[-1] == 7.0


@pytest.mark.parametrize("size", [1, 700, 50_000])
def test_an_overview_has_the_spikes_in_whatever_pieces_the_file_is_read(size: int) -> None:
    events = steps(5000)
    events[3210]["loss"], events[1234]["loss"] = 99.0, -99.0
    lines = [text_of([event]).encode() for event in events]
    overview = Overview()
    wanted = overview.wanted(events[0])
    for first in range(0, len(lines), size if size > 1 else 10):
        overview.add(parse_lines(b"".join(lines[first : first + (size if size > 1 else 10)]), wanted))
        overview.shrink()
    shown = overview.series("train/loss", Window("tokens"), 1000.0)
    assert shown is not None and shown.count == 5000 and len(shown.x) <= 2 * POINTS
    found = dict(zip(shown.y.tolist(), shown.x.tolist(), strict=True))
    assert (found[99.0], found[-99.0]) == (3211 * 128, 1235 * 128)
    assert shown.x[-1] == 5000 * 128
    assert overview.series("train/none", Window("step"), 0.0) is None
