"""The labels of a task and of a pretrained head are compared as sets, and the head decides the order."""

import pytest

from shardtune.trainer.tasks.head_labels import in_head_order


@pytest.mark.parametrize(
    ("names", "head", "expected"),
    [
        (["negative", "neutral", "positive"], ["positive", "negative", "neutral"], ["positive", "negative", "neutral"]),
        (["negative", "positive"], ["POSITIVE", "Negative"], ["positive", "negative"]),
        (["0", "1", "10", *"23456789"], [f"LABEL_{at}" for at in range(11)], [str(at) for at in range(11)]),
        (["a", "b"], ["LABEL_0", "LABEL_1"], None),
        (["a", "b"], ["a", "c"], None),
        (["a", "b"], ["a", "b", "c"], None),
        (["a", "b", "c"], ["a", "b"], None),
        (["us", "US"], ["US", "us"], ["US", "us"]),
        (["us", "US"], ["Us", "uS"], None),
        (["a", "b"], ["a", "a"], None),
    ],
)
def test_names_take_the_order_of_the_same_names(names: list[str], head: list[str], expected: list[str] | None) -> None:
    assert in_head_order(names, head) == expected
