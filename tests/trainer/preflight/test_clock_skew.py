"""Clocks are compared by the quickest of several messages that go there and back."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.preflight import clock_skew as its_module
from shardtune.trainer.preflight.clock_skew import clock_offsets, offset_of
from tests.support.ranks import run_ranks

ways = st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0.001, 1.0)), min_size=1, max_size=8)


@given(ahead=st.floats(-100, 100), ways=ways)
def test_the_offset_is_wrong_by_half_of_the_quickest_round_trip_at_most(
    ahead: float, ways: list[tuple[float, float]]
) -> None:
    sent = 1000.0
    round_trips = [(sent + ahead, sent + there, sent + ahead + there + back) for there, back in ways]
    error = abs(offset_of(round_trips) - ahead)
    assert error <= min(there + back for there, back in ways) / 2 + 1e-6


def test_every_machine_is_compared_with_rank_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ["a", "a", "b", "b", "c"]
    ahead = {"a": 0.0, "b": 10.0, "c": -3.0}

    def body(ranks: Ranks) -> list[float]:
        now = time.time
        monkeypatch.setattr(its_module.time, "time", lambda: now() + ahead[hosts[ranks.rank]])
        return clock_offsets(ranks, hosts)

    answers = run_ranks(body, world_size=5)
    assert answers[0] == answers[4] == [pytest.approx(ahead[host], abs=0.5) for host in hosts]
