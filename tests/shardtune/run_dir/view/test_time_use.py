"""What a run's time went to, on runs made by hand: every second has one cause."""

from typing import Any

import pytest

from shardtune.run_dir.view.time_use import CAUSES, lost_event, time_use
from shardtune.run_dir.view.waterfall import render_line, render_waterfall

Events = list[dict[str, Any]]


def event(kind: str, time: float, **values: Any) -> dict[str, Any]:
    return {"event": kind, "time": time, **values}


def step(number: int, time: float, **values: Any) -> dict[str, Any]:
    return event(
        "step", time, step=number, **{"step_time_s": 2.0, "data_wait_s": 0.5, "padding_efficiency": 0.8, **values}
    )


FIRST: Events = [
    event("begin", 112.0, process_began=110.0, launched=100.0, queued=40.0),
    event("phase", 115.0, name="loading the model"),
    event("start", 130.0, step=0),
    step(10, 150.0),
    event("phase", 150.0, name="evaluating on dev"),
    event("phase", 157.0, name=None),
    event("phase", 157.0, name="saving a checkpoint"),
    event("phase", 160.0, name=None),
    step(20, 180.0, lost_share=0.2),
    event("lost", 200.0, step=20, num_steps=10, seconds=20.0),
]
"""Submitted at 40, launched at 100; 20 steps were done and saved, and then 10 that a crash at 200 has lost."""
RESTARTED: Events = [
    event("begin", 216.0, process_began=210.0, launched=100.0, queued=40.0),
    event("start", 230.0, step=20),
    step(30, 250.0),
    event("phase", 250.0, name="exporting the models"),
    event("phase", 254.0, name=None),
    event("done", 255.0),
]


def used(events: Events) -> dict[str, float]:
    return {cause: spent for cause, spent in time_use(events).seconds.items() if spent}


def test_a_start_is_split_into_its_causes() -> None:
    assert used(FIRST) == pytest.approx(
        {
            "queueing": 60,
            "preparing": 10,
            "starting": 20,
            "useful": 15 * 0.8 + 15 * 0.8 * 0.8,
            "padding": 15 * 0.2 + 15 * 0.8 * 0.2,
            "waiting_for_ranks": 15 * 0.2,
            "waiting_for_data": 10,
            "evaluating": 7,
            "saving": 3,
            "repeated": 20,
        }
    )


def test_a_restart_of_the_same_launch_is_lost_time_and_the_whole_life_adds_up() -> None:
    use = time_use(FIRST + RESTARTED)
    assert use.seconds["restarting"] == 10
    assert (use.seconds["starting"], use.seconds["exporting"], use.seconds["other"]) == (40, 4, 1)
    assert use.total_s == 255 - 40 == pytest.approx(sum(use.seconds.values()))
    assert use.goodput == pytest.approx((15 * 0.8 + 15 * 0.8 * 0.8 + 15 * 0.8) / 215)


def test_the_time_between_two_launches_is_no_part_of_the_life_but_a_queue_is() -> None:
    by_hand = [{**RESTARTED[0], "launched": 209.0, "queued": None}, *RESTARTED[1:]]
    by_hand[0].pop("queued")
    assert time_use(FIRST + by_hand).total_s == 160 + (255 - 209)
    requeued = [{**RESTARTED[0], "launched": 209.0, "queued": 201.0}, *RESTARTED[1:]]
    assert used(FIRST + requeued)["queueing"] == 60 + 8


def test_a_rollback_within_a_start_counts_its_steps_once_more() -> None:
    start = [event("begin", 0.0), event("start", 0.0, step=0)]
    after = [event("lost", 40.0, step=10, num_steps=10, seconds=20.0), step(20, 60.0)]
    use = time_use([*start, step(10, 20.0), *after])
    assert use.seconds["repeated"] == 20 and use.seconds["other"] == 0
    assert use.seconds["waiting_for_data"] == 0.5 * 20
    assert use.total_s == 60


def test_runs_that_have_not_begun_and_runs_of_earlier_versions_have_an_answer() -> None:
    assert time_use([]).goodput is None and render_line(time_use([])) == "" == render_waterfall(time_use([]))
    old = [
        event("phase", 5.0, name="loading the model"),
        event("start", 10.0, step=0),
        event("step", 20.0, step=5, step_time_s=2.0),
    ]
    assert used(old) == {"starting": 5, "useful": 10}


def test_what_is_dropped_is_kept_as_the_time_that_it_took() -> None:
    dropped = [step(10, 20.0), event("eval", 22.0, step=10), step(20, 40.0, step_time_s=3.0)]
    assert lost_event(dropped, 5) == event("lost", 40.0, step=5, num_steps=15, seconds=5 * 2.0 + 10 * 3.0)
    assert lost_event([event("eval", 22.0, step=10)], 5) is None


def test_the_picture_has_a_bar_for_each_cause_from_the_whole_down_to_what_trained() -> None:
    use = time_use(FIRST + RESTARTED)
    picture = render_waterfall(use)
    assert picture.count("<rect") == 1 + len(used(FIRST + RESTARTED))
    assert picture.index("the whole time") < picture.index(CAUSES["queueing"]) < picture.index(CAUSES["useful"])
    assert render_line(use) == (
        "15.6% useful of 3:35; 27.9% waiting in the queue, 18.6% starting: imports, loading, resuming, "
        "9.3% training that was lost and done again, 7.0% waiting for data"
    )
