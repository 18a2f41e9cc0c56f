"""The time of a run is that of its steps and of all beside them, and a time limit makes several starts of it."""

from dataclasses import replace

import pytest

from shardtune.planner.forecast.at_scale import endurance, lives
from shardtune.planner.forecast.brief import brief, warnings
from shardtune.planner.forecast.forecast import Forecast, forecast
from shardtune.planner.forecast.of_recipe import DataSize
from shardtune.planner.forecast.run_time import START_S, waiting
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Cluster
from shardtune.planner.model_shape import shape_of_sizes
from shardtune.planner.scale.goodput import Saving
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe

RECIPE = """
task: {kind: language_modeling}
model: {path: x, activation_checkpointing: true}
data: {train: x.txt, max_tokens: 2048}
train: {global_batch_size: 64, num_epochs: 2}
engine: {deepspeed: zero3}
"""
ROWS = DataSize(num_rows=64_000, tokens_per_row=2000.0, dev_tokens=1e6)
HOUR = 3600.0


def recipe_of(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, list(overrides))


def planned(*overrides: str, data: DataSize = ROWS, nodes: int = 1) -> Forecast:
    cluster = Cluster(gpu=find_gpu("h100"), num_nodes=nodes)
    return forecast(recipe_of(*overrides), shape_of_sizes(7e9, 32), cluster, data, price=2.0)


def test_what_is_beside_the_steps_takes_time_too() -> None:
    run = planned("data.dev=y.txt", "checkpoint.every_steps=500").run
    assert run is not None
    assert (run.num_evaluations, run.num_checkpoints, run.num_starts) == (2, 4, 1)
    assert run.seconds["evaluations"] == pytest.approx(2 / 128 * run.seconds["steps"] * 0.25, rel=0.5)
    assert run.seconds["starts"] > START_S
    assert run.total_s == pytest.approx(sum(run.seconds.values()))


def test_without_dev_nothing_is_evaluated_and_a_checkpoint_is_saved_at_the_end() -> None:
    run = planned().run
    assert run is not None
    assert (run.num_evaluations, run.num_checkpoints, run.seconds["evaluations"]) == (0, 1, 0.0)


def test_checkpoints_that_wait_for_the_disk_cost_more_than_those_that_are_copied_first() -> None:
    both = [
        planned("train.max_steps=2000", "checkpoint.every_steps=200", f"checkpoint.asynchronous={asynchronous}").run
        for asynchronous in ("true", "false")
    ]
    background, at_once = (run.seconds["checkpoints"] if run is not None else 0.0 for run in both)
    assert 0 < background < at_once / 3
    assert waiting(Saving(2.0, 100.0), 30.0).stall_s == 72.0
    assert waiting(Saving(2.0, 100.0), 300.0).stall_s == 2.0


def test_a_time_limit_makes_several_starts_and_each_costs_its_beginning() -> None:
    one, several = planned().run, planned("job.time_limit=00:30:00", "job.max_requeues=2").run
    assert one is not None and several is not None and several.time_limit_s is not None
    assert several.num_starts >= one.total_s / 1800
    assert several.total_s - one.total_s == pytest.approx((several.num_starts - 1) * several.start_s)
    assert f"{several.num_starts} starts" in several.describe()
    assert "job.max_requeues allows 3" in several.describe()


def test_three_lines_say_whether_it_fits_when_it_ends_and_what_it_takes() -> None:
    found = planned()
    fits, ends, takes = brief(found, steps_done=0, now=1.7e9)
    assert fits.startswith("fits: ") and "GiB of a h100-sxm-80g" in fits
    assert ends.startswith("ends at about ")
    assert "GPU-hours (" in takes and ", costs " in takes and "kWh" in takes
    assert found.run_s is not None
    (_, later, _) = brief(found, steps_done=1000, now=1.7e9 + found.run_s / 2)
    assert later.split(" (")[0] == ends.split(" (")[0]  # half of the steps are done in half of the time


def test_without_the_number_of_rows_there_is_no_end() -> None:
    _, unknown = brief(planned(data=DataSize()), steps_done=0, now=0.0)
    assert "number of training rows is not known" in unknown


def test_a_job_is_warned_of_a_limit_below_one_checkpoint_interval_and_of_gpus_that_cannot_hold_it() -> None:
    words = ("job.time_limit=00:30:00", "job.max_requeues=0", "checkpoint.every_steps=2000")
    short, starts = warnings(planned(*words), recipe_of(*words))
    assert "job.time_limit=00:30:00 leaves" in short and "lower checkpoint.every_minutes" in short
    assert "job.max_requeues allows 1" in starts
    assert not list(warnings(planned("job.time_limit=24:00:00"), recipe_of("job.time_limit=24:00:00")))
    words = ("engine.deepspeed=zero0",)
    (full,) = warnings(planned(*words), recipe_of(*words))
    assert "8 x h100-sxm-80g cannot hold this" in full


def test_failures_are_as_many_as_the_time_and_the_nodes_say_and_the_simulation_agrees() -> None:
    words = ("train.max_steps=200000", "checkpoint.every_minutes=30")
    run, recipe = planned(*words, nodes=16).run, recipe_of(*words)
    assert run is not None
    found = endurance(run, recipe, 16, 100 * HOUR, 0.0, "a test")
    assert found.failures == pytest.approx(found.elapsed_s / (100 * HOUR / 16))
    assert found.requeues == 0  # a job that has lost one of its nodes goes on with the others
    assert 0.8 < found.goodput <= found.best_goodput < 1
    goodputs = [life.goodput for life in lives(run, recipe, 16, found, 0.0)]
    assert sum(goodputs) / len(goodputs) == pytest.approx(found.goodput, rel=0.02)


def test_a_job_of_one_node_waits_in_the_queue_after_a_failure() -> None:
    words = ("train.max_steps=20000",)
    run, recipe = planned(*words).run, recipe_of(*words)
    assert run is not None
    at_once, queued = (endurance(run, recipe, 1, 50 * HOUR, wait, "a test") for wait in (0.0, 10 * HOUR))
    assert at_once.requeues == pytest.approx(at_once.failures)
    assert queued.goodput < at_once.goodput
    limited = replace(run, num_starts=3)
    assert endurance(limited, recipe, 1, 1e12, 10 * HOUR, "a test").requeues == pytest.approx(2)
