"""The trainings whose real steps are compared with the plan: what they cover, and that their recipes are legal."""

import random

import pytest

from benchmarks.planner import on_cpus
from benchmarks.planner.on_cpus import CONFIGURATIONS, MINILM, RECIPE, SMOLLM2, Configuration, Timed
from shardtune.planner.forecast.of_recipe import DataSize
from shardtune.planner.forecast.on_cpus import Ranks
from shardtune.planner.forecast.on_cpus import on_cpus as planned
from shardtune.planner.measured.basis import Basis
from shardtune.planner.model_shape import shape_of_config
from shardtune.recipe.load import parse_recipe
from tests.support.calibrations import calibration


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda configuration: configuration.name)
def test_each_training_has_a_planned_time_on_a_measured_machine(configuration: Configuration) -> None:
    values = {key: value for key, value in vars(configuration).items() if key not in ("name", "more")}
    recipe = parse_recipe(RECIPE.format(folder="/data", steps=3, **values), configuration.more)
    config = MINILM if configuration.model == "minilm" else SMOLLM2
    shape = shape_of_config(config, num_labels=2 if recipe.task.has_labels else None)
    ranks = Ranks(configuration.ranks, configuration.precision, 2.0**34)
    found = planned(recipe, shape, ranks, DataSize(3000, 64), Basis(calibration()))
    assert found.why_not is None and found.forecast is not None and found.forecast.step.total_s > 0


def test_they_differ_in_ranks_precision_packing_adapters_and_engine() -> None:
    assert {each.ranks for each in CONFIGURATIONS} == {1, 2}
    assert {each.precision for each in CONFIGURATIONS} == {"fp32", "bf16"}
    assert {each.deepspeed for each in CONFIGURATIONS} == {"null", "zero2"}
    assert {word for each in CONFIGURATIONS for word in each.more} == {"model.lora.r=16", "data.packing=off"}


def test_an_error_is_relative_to_the_real_time() -> None:
    assert Timed("", planned_s=1.2, real_s=1.0).error == pytest.approx(0.2)


def test_real_steps_are_compared_at_the_planned_number_of_tokens() -> None:
    plan = {"tokens_per_s": 50.0, "step_s": 2.0}  # 100 tokens in a step
    events = [{"step_time_s": 1.0, "tokens_per_s": 40.0}, {"step_time_s": 3.0, "tokens_per_s": 40.0}]
    assert on_cpus.real_step_s(plan, events) == pytest.approx(100 / 40)


def test_texts_have_words_of_both_vocabularies() -> None:
    rows = [*on_cpus.rows("classification", random.Random(0))]
    assert {row["label"] for row in rows} == {"positive", "negative"}
    assert all(8 <= len(row["text"].split()) <= 120 for row in rows)
