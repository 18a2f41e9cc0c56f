"""Which blended model is picked, by the numbers alone."""

import math
from collections.abc import Mapping

import pytest

from shardtune.errors import DataError
from shardtune.trainer.commands.blending.choice import Measure, Point, choose

ACCURACY, LOSS = Measure("accuracy", False), Measure("loss", True)


def points(of_dev: Mapping[float, float], *, metric: str = "accuracy", **others: list[float]) -> list[Point]:
    return [
        Point(alpha, {metric: value}, {}, {name: {metric: values[number]} for name, values in others.items()})
        for number, (alpha, value) in enumerate(of_dev.items())
    ]


def test_without_other_rows_dev_decides_and_of_equal_ones_the_nearest_to_the_base() -> None:
    choice = choose(points({0: 0.5, 0.3: 0.9, 0.7: 0.9, 1: 0.8}), ACCURACY, {})
    assert (choice.best, choice.rule) == (0.3, "by the highest accuracy on dev")
    choice = choose(points({0: 2.0, 0.5: 1.0, 1: 1.5}, metric="loss"), LOSS, {})
    assert (choice.best, choice.rule) == (0.5, "by the lowest loss on dev")


def test_with_other_rows_the_mean_of_what_is_learned_and_what_is_kept_decides() -> None:
    """Shares of the ends: 0.9 of what the tuned model can do and 0.8 of the base's are 0.85."""
    choice = choose(
        points({0: 0.3, 0.5: 0.54, 1: 0.6}, reading=[0.5, 0.4, 0.2], sums=[1.0, 0.8, 0.5]),
        ACCURACY,
        {"reading": ACCURACY, "sums": ACCURACY},
    )
    assert choice.best == 0.5
    assert choice.scores == {
        0: pytest.approx((0.5 + 1) / 2),
        0.5: pytest.approx(0.85),
        1: pytest.approx((1 + 0.45) / 2),
    }
    assert (
        "of the tuned model's accuracy on dev, and of the base's accuracy on reading, accuracy on sums" in choice.rule
    )


def test_a_small_loss_of_other_skills_does_not_outweigh_what_was_learned() -> None:
    assert choose(points({0: 0.5, 0.5: 0.7, 1: 0.9}, other=[0.9, 0.9, 0.899]), ACCURACY, {"other": ACCURACY}).best == 1


def test_a_loss_is_shared_the_other_way_round() -> None:
    choice = choose(points({0: 4.0, 0.5: 2.0, 1: 1.0}, metric="loss", text=[2.0, 2.5, 8.0]), LOSS, {"text": LOSS})
    assert choice.scores == {0: 0.625, 0.5: pytest.approx((0.5 + 0.8) / 2), 1: 0.625}
    assert choice.best == 0.5


def test_what_is_not_finite_is_not_picked() -> None:
    choice = choose(points({0: 0.5, 0.5: math.nan, 1: 0.6}), ACCURACY, {})
    assert choice.best == 1 and choice.scores[0.5] is None
    choice = choose(points({0: 0.5, 0.5: 0.7, 1: 0.6}, other=[0.0, 1.0, 1.0]), ACCURACY, {"other": ACCURACY})
    assert choice.best == 0.5 and "other left out" in choice.rule
    choice = choose(points({0: 0.5, 0.5: 0.7, 1: 0.6}, other=[0.9, math.nan, 0.1]), ACCURACY, {"other": ACCURACY})
    assert choice.best == 0
    with pytest.raises(DataError, match="has a finite accuracy on dev"):
        choose(points({0: math.nan, 1: math.inf}), ACCURACY, {})
