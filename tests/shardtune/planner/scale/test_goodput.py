"""The formulas of goodput, against those of the papers, against numeric optima, and against limits known by hand."""

import math

import pytest

from shardtune.planner.scale.goodput import (
    Restart,
    Saving,
    best_interval,
    daly_interval,
    goodput,
    job_mtbf,
    mean_restart,
    young_interval,
)

HOUR = 3600.0
IN_PLACE = [Restart(1.0, 300.0)]


def test_without_write_time_and_with_one_kind_of_restart_it_is_dalys_formula() -> None:
    interval, stall, restart, mtbf = 1800.0, 60.0, 300.0, 5 * HOUR
    wall = mtbf * math.exp(restart / mtbf) * (math.exp((interval + stall) / mtbf) - 1)
    assert goodput(interval, Saving(stall), IN_PLACE, mtbf) == pytest.approx(interval / wall)


def test_the_mean_restart_is_that_of_repeated_tries() -> None:
    assert mean_restart(IN_PLACE, HOUR) == pytest.approx(HOUR * math.expm1(300 / HOUR))
    kinds = [Restart(0.25, 100.0), Restart(0.75, 2000.0)]
    assert mean_restart(kinds, 1e12) == pytest.approx(0.25 * 100 + 0.75 * 2000)


@pytest.mark.parametrize("stall", [0.5, 20.0, 300.0, 3000.0])
@pytest.mark.parametrize("mtbf", [0.5 * HOUR, 8 * HOUR, 300 * HOUR])
def test_no_other_interval_is_better_than_the_best(stall: float, mtbf: float) -> None:
    saving = Saving(stall)
    best = best_interval(saving, mtbf)
    top = goodput(best, saving, IN_PLACE, mtbf)
    assert all(goodput(best * factor, saving, IN_PLACE, mtbf) < top for factor in (0.9, 0.99, 1.01, 1.1))


def test_young_and_daly_come_near_the_best_where_checkpoints_are_cheap() -> None:
    stall, mtbf = 30.0, 8 * HOUR
    best = best_interval(Saving(stall), mtbf)
    assert young_interval(stall, mtbf) == pytest.approx(math.sqrt(2 * 30 * 8 * HOUR))
    assert young_interval(stall, mtbf) == pytest.approx(best, rel=0.02)
    assert daly_interval(stall, mtbf) == pytest.approx(best, rel=2e-4)
    assert daly_interval(3 * mtbf, mtbf) == mtbf


def test_checkpoints_are_no_denser_than_they_can_be_written() -> None:
    assert best_interval(Saving(1.0, write_s=900.0), HOUR) == 900.0


def test_more_nodes_fail_more_often_and_machines_that_never_fail_lose_only_the_stalls() -> None:
    assert job_mtbf(1000 * HOUR, 128) == 1000 * HOUR / 128
    assert goodput(1000.0, Saving(10.0, write_s=50.0), IN_PLACE, 1e12) == pytest.approx(1000 / 1010, rel=1e-6)
