"""The learning rate is a pure function of the step."""

import pytest

from shardtune.recipe.sections.optim import OptimConfig
from shardtune.trainer.engine.schedule import SCHEDULES, make_schedule


def rates(num_steps: int = 10, **optim: object) -> list[float]:
    lr = make_schedule(OptimConfig.model_validate({"lr": 1.0, **optim}), num_steps)
    return [lr(step) for step in range(num_steps)]


def test_warm_up_rises_along_a_line_to_the_peak() -> None:
    assert rates(warmup_steps=4, schedule="constant") == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 6)


def test_a_warm_up_may_be_a_fraction_of_all_steps() -> None:
    assert rates(warmup_fraction=0.4) == rates(warmup_steps=4)


def test_linear_falls_along_a_line_and_wastes_no_step_at_zero() -> None:
    assert rates(num_steps=4, schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    heights = rates(num_steps=100, schedule="cosine")
    assert heights[0] == 1.0
    assert heights[50] == pytest.approx(0.5)
    assert heights == sorted(heights, reverse=True)


def test_wsd_is_stable_until_the_last_fraction() -> None:
    assert rates(schedule="wsd", decay_fraction=0.4, warmup_steps=2)[2:] == pytest.approx([1] * 5 + [0.75, 0.5, 0.25])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup_steps", [0, 3, 10, 25])
def test_no_step_is_spent_on_nothing_or_above_the_peak(schedule: str, warmup_steps: int) -> None:
    assert all(0 < lr <= 1 for lr in rates(schedule=schedule, warmup_steps=warmup_steps))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_the_minimum_is_a_part_of_the_peak(schedule: str) -> None:
    lr = make_schedule(OptimConfig.model_validate({"lr": 2.0, "schedule": schedule, "min_lr_ratio": 0.1}), 50)
    assert lr(50) == pytest.approx(0.2)
