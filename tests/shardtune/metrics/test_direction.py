"""One table says of which metrics lower values are better, and the tasks agree with it."""

import pytest

from shardtune.metrics.direction import is_lower_better
from shardtune.trainer.tasks import TASKS


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("loss", True),
        ("eval/dev/loss", True),
        ("retention/news/perplexity", True),
        ("dev/kl_to_base", True),
        ("ece_scaled", True),
        ("accuracy", False),
        ("f1_macro", False),
        ("bleu", False),
        ("loss/accuracy", False),
        ("closed_book", False),
    ],
)
def test_a_name_says_whether_lower_values_are_better(metric: str, lower: bool) -> None:
    assert is_lower_better(metric) is lower


@pytest.mark.parametrize("kind", sorted(TASKS))
def test_each_task_agrees_with_the_table(kind: str) -> None:
    assert all(map(is_lower_better, TASKS[kind].lower_is_better))
