"""What is added up as the file is read is what the whole file says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.launcher.dashboard.read.digest import SUMMED, Digest
from shardtune.launcher.dashboard.read.lines import parse_lines, step_line_in
from shardtune.run_dir.view.time_use import time_use
from tests.launcher.dashboard.conftest import BEGIN, DAMAGED, START, step, steps, text_of

share = st.floats(0, 1)


def digest_of(*parts: list[Any]) -> Digest:
    digest = Digest()
    for part in parts:
        data = text_of(part).encode("utf-8", "surrogatepass")
        digest.add(parse_lines(data, SUMMED), step_line_in(data))
    return digest


@st.composite
def lives(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events of some starts, with phases and steps that are lost."""
    events: list[dict[str, Any]] = []
    now = number = 0.0
    for _ in range(draw(st.integers(1, 3))):
        begin: dict[str, Any] = {"event": "begin", "time": now + 1, "process_began": now + 0.5}
        begin |= {"launched": draw(st.sampled_from([0.0, now]))} if draw(st.booleans()) else {}
        events += [begin, {"event": "start", "time": now + 3, "step": int(number)}]
        now += 3
        for kind in draw(st.lists(st.sampled_from(["step", "step", "step", "phase", "end", "lost", "eval"]))):
            now += 4
            if kind == "step":
                number += draw(st.integers(1, 3))
                values = {"data_wait_s": draw(st.floats(0, 3)), "lost_share": draw(share)}
                values |= {"padding_efficiency": draw(st.none() | share), "step_time_s": draw(st.floats(0, 2))}
                events.append({**step(int(number), **values), "time": now})
            elif kind == "lost":
                lost = {"event": "lost", "time": now, "step": max(int(number) - 2, 0), "num_steps": 2, "seconds": 1.0}
                number = lost["step"]
                events.append(lost)
            elif kind == "eval":
                events.append({"event": "eval", "time": now, "split": "dev", "step": number})
            else:
                events.append({"event": "phase", "time": now, "name": "saving a" if kind == "phase" else None})
    return events


@given(lives(), st.data())
def test_the_use_of_time_is_that_of_all_events_in_whatever_pieces_they_come(
    events: list[dict[str, Any]], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=3)))
    parts = [events[first:last] for first, last in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    use = digest_of(*parts).time_use()
    assert use is not None
    assert use.seconds == pytest.approx(time_use(events).seconds, abs=1e-6)


def test_tokens_are_those_of_the_lines_and_those_that_are_done_again_count_once() -> None:
    assert digest_of(steps(10)).tokens == 10 * 128
    assert digest_of(steps(4), steps(6, 5)).tokens == 10 * 128
    lost = {"event": "lost", "time": 1030.0, "step": 4, "num_steps": 6, "seconds": 12.0}
    assert digest_of([*steps(4), lost, *steps(6, 5)]).tokens == 10 * 128
    assert digest_of([step(10), step(20)]).tokens == 20 * 128, "a line stands for the steps since the line before"


def test_the_newest_events_come_in_the_order_of_the_file() -> None:
    stopped = {"event": "stopped", "time": 1020.0, "step": 3, "reason": "SIGTERM"}
    digest = digest_of([BEGIN, START, *steps(3), stopped], [])
    assert [event["event"] for event in digest.events()] == ["begin", "start", "step", "stopped"]
    again = digest_of([BEGIN, START, *steps(3), stopped], [BEGIN, {**START, "step": 3}, step(4)])
    assert [event["event"] for event in again.events()] == ["stopped", "begin", "start", "step"]


def test_the_best_value_is_the_highest_or_of_a_loss_the_lowest_and_never_nan() -> None:
    def dev(number: int, **metrics: float | None) -> dict[str, Any]:
        return {"event": "eval", "time": 1000.0 + number, "split": "dev", "step": number, **metrics}

    digest = digest_of([dev(1, loss=2.0, f1=0.5), dev(2, loss=1.0, f1=None), dev(3, loss=3.0, f1=0.25)])
    found = {metric: (best.value, best.step) for metric, best in digest.best.items()}
    assert found == {"dev/loss": (1.0, 2), "dev/f1": (0.5, 1)}


def test_what_is_damaged_ends_nothing() -> None:
    odd = [
        {"event": "start", "time": 1.0}, {"event": "lost", "time": 1.0, "step": "x"}, {"event": "phase", "time": 2.0},
        {"event": "phase", "time": 1.0, "name": 3}, {"event": "checkpoint", "time": 1.0},
        {"event": "eval", "time": 1.0},
        {"event": "eval", "time": 1.0, "split": [], "step": None, "answers": [3, {"a": None}]},
    ]  # fmt: skip
    digest = digest_of([*DAMAGED, *odd, *steps(2), BEGIN, {**BEGIN, "launched": "x"}, *odd, step(3)])
    assert digest.newest("step") == step(3) and digest.num_damaged >= len(DAMAGED)


def test_texts_and_matrices_are_not_kept_with_the_newest_events_and_samples_are_cut() -> None:
    answers = [{"prompt": "p", "answer": "x" * 10_000, "reference": "r"}] * 100
    digest = digest_of([{"event": "eval", "time": 1.0, "split": "dev", "step": 1, "answers": answers}])
    (newest,) = digest.events()
    assert "answers" not in newest
    (shown,) = digest.samples["dev"]
    assert len(shown["answers"]) == 20 and len(shown["answers"][0]["answer"]) == 4000


def test_what_a_step_is_like_is_the_median_of_the_newest_start() -> None:
    slow, odd = step(1, step_time_s=50.0), step(9, step_time_s=70.0, tokens_per_s=None)
    assert digest_of([BEGIN, START, slow, *steps(3, first=2)]).typical() == {"step_time_s": 2.0, "tokens_per_s": 64.0}
    again = digest_of([BEGIN, START, slow, slow, slow], [{**START, "step": 1}, *steps(2, first=2), odd])
    assert again.typical() == {"step_time_s": 2.0, "tokens_per_s": 64.0}
    assert digest_of([BEGIN, START]).typical() == {}
