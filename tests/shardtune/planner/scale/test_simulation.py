"""The simulated life of a job agrees with the formula where that holds, and with what large clusters have published."""

import pytest

from shardtune.planner.scale.goodput import Restart, Saving, best_interval, goodput, job_mtbf
from shardtune.planner.scale.simulation import Life, Machines, Plan, simulate

HOUR, DAY = 3600.0, 86400.0
LLAMA_NODE_MTBF_S = 54 * DAY * (16384 / 8) / 419
"""Llama 3 405B: 419 unexpected interruptions in 54 days on 16,384 GPUs, 8 a node (Grattafiori et al., 2024, 3.3.4)."""
RSC_NODE_MTBF_S = 47.7 * DAY
"""Meta's research clusters: mean time to failure of a job of one node (Kokolis et al., 2024, "Revisiting Reliability in
Large-Scale Machine Learning Research Clusters")."""


def cycle(machines: Machines, plan: Plan, mtbf_s: float, seed: int = 1) -> Life:
    """A life with about 4,000 failures."""
    return simulate(machines, plan, horizon_s=4000 * mtbf_s, seed=seed)


@pytest.mark.parametrize("num_gpus", [8, 128, 1024, 16384])
@pytest.mark.parametrize(("stall", "write"), [(30.0, 0.0), (5.0, 240.0)])
def test_it_agrees_with_the_formula_from_8_to_16384_gpus(num_gpus: int, stall: float, write: float) -> None:
    nodes = num_gpus // 8
    mtbf = job_mtbf(RSC_NODE_MTBF_S, nodes)
    saving = Saving(stall, write)
    interval = best_interval(saving, mtbf)
    life = cycle(Machines(nodes, RSC_NODE_MTBF_S, in_place=1.0, restart_s=400.0), Plan(interval, saving), mtbf)
    expected = goodput(interval, saving, [Restart(1.0, 400.0)], mtbf)
    assert 1 - life.goodput == pytest.approx(1 - expected, rel=0.05)
    assert sum(life.seconds.values()) == pytest.approx(4000 * mtbf)


def test_kinds_of_restarts_agree_too() -> None:
    mtbf = 10 * HOUR
    machines = Machines(1, mtbf, in_place=0.6, restart_s=300.0, queue_s=3600.0)
    plan = Plan(1800.0, Saving(10.0))
    life = cycle(machines, plan, mtbf)
    # A wait in the queue is no restart that a failure could interrupt: its mean is added to the cycle.
    trains = goodput(1800.0, Saving(10.0), [Restart(1.0, 300.0)], mtbf)
    cycle_s = mtbf + mtbf * 300 / mtbf
    assert life.goodput == pytest.approx(trains * cycle_s / (cycle_s + 0.4 * 3600), rel=0.02)
    assert life.counts["failure"] == pytest.approx(3750, rel=0.1)


def test_llama_3_on_16384_gpus_stops_as_often_as_published_and_trains_over_nine_tenths_of_the_time() -> None:
    nodes = 16384 // 8
    saving = Saving(stall_s=5.0, write_s=120.0)
    interval = best_interval(saving, job_mtbf(LLAMA_NODE_MTBF_S, nodes))
    machines = Machines(nodes, LLAMA_NODE_MTBF_S, in_place=1.0, restart_s=480.0)
    lives = [simulate(machines, Plan(interval, saving), horizon_s=54 * DAY, seed=seed) for seed in range(20)]
    failures = sum(life.counts["failure"] for life in lives) / len(lives)
    assert failures == pytest.approx(419, rel=0.05)
    assert all(life.goodput > 0.9 for life in lives)


def test_jobs_of_1024_gpus_fail_about_as_often_as_published() -> None:
    # Published: a mean time to failure of 7.9 hours for 1,024 GPUs, 47.7 days for 8.
    assert job_mtbf(RSC_NODE_MTBF_S, 128) == pytest.approx(7.9 * HOUR, rel=0.15)


def test_what_no_formula_has_is_counted_by_its_cause() -> None:
    saving = Saving(20.0)
    calm = simulate(Machines(4), Plan(600.0, saving), horizon_s=10 * DAY, seed=0)
    assert calm.seconds["useful"] == pytest.approx(10 * DAY * 600 / 620, rel=1e-3)
    slow = Machines(4, straggler_s=4 * DAY, straggler_factor=2.0, straggler_lasts_s=HOUR)
    life = simulate(slow, Plan(600.0, saving), horizon_s=400 * DAY, seed=0)
    assert life.seconds["straggling"] == pytest.approx(life.counts["straggler"] * HOUR / 2, rel=0.05)
    stalls = simulate(
        Machines(4), Plan(600.0, saving, slow_save_chance=0.1, slow_save_factor=31.0), horizon_s=100 * DAY, seed=0
    )
    assert stalls.seconds["saving"] == pytest.approx(stalls.counts["save"] * 20 * 4, rel=0.1)
    limited = simulate(
        Machines(4, queue_s=2 * HOUR, restart_s=120.0),
        Plan(600.0, saving, time_limit_s=DAY),
        horizon_s=100 * DAY,
        seed=0,
    )
    assert limited.counts["time_limit"] == pytest.approx(100 / (1 + 2 / 24), rel=0.05)
    assert limited.seconds["repeated"] == 0 < limited.seconds["queueing"]
    preempted = simulate(
        Machines(4, preemption_s=12 * HOUR, queue_s=HOUR), Plan(600.0, saving), horizon_s=100 * DAY, seed=0
    )
    assert preempted.counts["preemption"] == pytest.approx(100 * 24 / 13, rel=0.1)
    assert preempted.seconds["repeated"] == 0


def test_the_same_seed_is_the_same_life() -> None:
    machines = Machines(16, 2 * DAY, in_place=0.5, restart_s=60.0, queue_s=600.0)
    one, two, other = (
        simulate(machines, Plan(900.0, Saving(9.0)), horizon_s=30 * DAY, seed=seed) for seed in (3, 3, 4)
    )
    assert one == two != other
