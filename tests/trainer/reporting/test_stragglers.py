"""The rank that the others wait for is named, with the fraction of the time of all ranks that this costs."""

import time
from pathlib import Path
from statistics import fmean

import pytest
import torch

from shardtune.trainer.distributed.rank_env import global_rank
from shardtune.trainer.reporting import stragglers as its_module
from shardtune.trainer.reporting.stragglers import BEHIND, NUM_WINDOWS, Pace, RankLocation, Straggler, lost_share
from tests.support.runs import events, tiny_recipe, train

PLACES = [RankLocation(f"node{rank // 2 + 1}", rank % 2) for rank in range(6)]
EVEN = [1.0] * 6
WINDOW_S = its_module.WINDOW_S


def with_slow(*ranks: int, factor: float = 2.0) -> list[float]:
    return [factor if rank in ranks else 1.0 for rank in range(6)]


def test_the_lost_share_is_the_waiting_of_the_others_in_the_time_of_all() -> None:
    assert lost_share([1.0, 2.0, 1.5], [1]) == pytest.approx((1.0 + 0.5) / 6.0)
    assert lost_share([1.0, 2.0, 2.0], [1, 2]) == pytest.approx(1.0 / 6.0)
    assert lost_share([1.0, 2.0, 1.5], [2]) == 0.0  # it is rank 1 that they wait for
    assert lost_share([1.0, 1.0], [0]) == lost_share([0.0, 0.0], [0]) == lost_share([1.0], [0]) == 0.0


def test_a_step_event_names_the_slowest_rank_unless_there_is_only_one() -> None:
    numbers = Pace(PLACES).numbers(with_slow(3))
    assert numbers == {
        "compute_s": [1.0, 1.0, 1.0, 2.0, 1.0, 1.0],
        "slowest_rank": 3,
        "slowest_host": "node2",
        "slowest_gpu": 1,
        "lost_share": pytest.approx(5 / 12, abs=1e-6),
    }
    assert Pace(PLACES[:1]).numbers([1.0]) == {}
    assert Pace(PLACES).numbers([0.0] * 6) == {}  # all steps were skipped
    many = Pace([RankLocation(f"node{rank}", None) for rank in range(1000)]).numbers([1.0] * 999 + [1.5])
    assert "compute_s" not in many and (many["slowest_host"], many["slowest_gpu"]) == ("node999", None)


def said(pace: Pace, *windows: list[float]) -> list[list[str]]:
    return [[rank.name for rank in pace.add(seconds, WINDOW_S)] for seconds in windows]


def test_a_rank_that_stays_behind_is_reported_once_and_again_after_it_has_caught_up() -> None:
    pace = Pace(PLACES)
    assert said(pace, *[with_slow(3)] * (NUM_WINDOWS + 3)) == [[], [], ["rank 3 (node2, GPU 1)"], [], [], []]
    assert said(pace, EVEN, *[with_slow(3)] * 3) == [[], [], [], ["rank 3 (node2, GPU 1)"]]


def test_a_rank_that_is_slow_now_and_then_or_hardly_slow_is_not_reported() -> None:
    assert said(Pace(PLACES), *[with_slow(3), with_slow(3), EVEN] * 4) == [[]] * 12
    assert said(Pace(PLACES), *[with_slow(rank % 6) for rank in range(12)]) == [[]] * 12
    assert said(Pace(PLACES), *[with_slow(3, factor=0.99 * BEHIND)] * 5) == [[]] * 5
    assert said(Pace(PLACES), *[with_slow(3, factor=1.01 * BEHIND)] * 3)[-1] == ["rank 3 (node2, GPU 1)"]


def test_a_machine_whose_ranks_are_all_behind_is_reported_as_a_whole() -> None:
    pace = Pace(PLACES)
    *_, (straggler,) = (pace.add(with_slow(2, 3), WINDOW_S) for _ in range(NUM_WINDOWS))
    assert straggler == Straggler("the 2 ranks of node2", "node2", 2.0, pytest.approx(4 / 12))
    assert straggler.title == "the other ranks wait for the 2 ranks of node2"
    assert straggler.text.startswith("computing took 2 times as long as the median for the last 3 intervals, and 33% ")
    assert "[--exclude=node2]" in straggler.text


def test_of_two_ranks_the_slower_one_is_reported() -> None:
    pace = Pace(PLACES[:2])
    assert said(pace, *[[1.0, 2.0]] * 3)[-1] == ["rank 1 (node1, GPU 1)"]


def test_reports_of_short_steps_make_one_window() -> None:
    pace = Pace(PLACES)
    per_window = [pace.add(with_slow(3), WINDOW_S / 4) for _ in range(4 * NUM_WINDOWS)]
    assert [len(found) for found in per_window] == [0] * (4 * NUM_WINDOWS - 1) + [1]


@pytest.mark.parametrize("stage", [2, 3])
def test_a_slowed_rank_is_named_while_it_trains(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    monkeypatch.setattr(its_module, "WINDOW_S", 0.1)
    forward = torch.nn.LayerNorm.forward

    def slow(self: torch.nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return forward(self, x)

    def before() -> None:
        if global_rank() == 1:
            monkeypatch.setattr(torch.nn.LayerNorm, "forward", slow)

    recipe = tiny_recipe(tiny, f"engine.deepspeed=zero{stage}", "train.max_steps=8")
    train(recipe, tmp_path, world_size=2, before=before)
    steps, alerts = events(tmp_path, "step"), events(tmp_path, "alert")
    # Of all steps together: on a busy machine the other rank may be the slower one for once.
    fast_s, slow_s = (sum(step["compute_s"][rank] for step in steps) for rank in (0, 1))
    assert slow_s > 2 * fast_s > 0, steps
    assert [step["slowest_rank"] for step in steps].count(1) >= 6
    assert 0.25 < fmean(step["lost_share"] for step in steps) < 0.5
    assert {alert["title"].split(" (")[0] for alert in alerts} == {"the other ranks wait for rank 1"}
