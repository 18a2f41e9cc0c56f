"""Counts of an evaluation stay exact, however many rows and tokens it has."""

import torch
from torch import Tensor

from shardtune.recipe.tasks.classification import ClassificationOptions
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.evaluation.evaluate import add
from shardtune.trainer.tasks import causal
from shardtune.trainer.tasks.classification.multi_label import MultiLabel
from shardtune.trainer.tasks.task import PerExample
from shardtune.trainer.tasks.token_classification.token_classification import TokenClassification
from tests.support.ranks import run_ranks

MANY = 2**24
"""From here on, float32 does not hold each whole number: MANY + 1 is MANY."""


def test_counts_above_2_to_the_24_add_up_exactly_over_batches_and_ranks() -> None:
    def counted(ranks: Ranks) -> dict[str, float]:
        totals: dict[str, Tensor | PerExample] = {}
        for count in (MANY, 1, 1):
            add(totals, {"tokens_right": torch.tensor(float(count)), "tokens": torch.tensor(count)})
        summed = ranks.sum_counts({name: total for name, total in totals.items() if isinstance(total, Tensor)})
        accuracy = causal.metrics({**summed, "loss_sum": torch.tensor(1.0), "num_targets": torch.tensor(1)})
        return {name: total.item() for name, total in summed.items()} | accuracy

    found = run_ranks(counted)[0]
    assert (found["tokens_right"], found["tokens"]) == (2 * (MANY + 2), 2 * (MANY + 2))
    assert found["token_accuracy"] == 1


def test_rates_of_large_counts_are_rounded_as_float64() -> None:
    none, right = torch.zeros(2, dtype=torch.int64), torch.tensor(2 * MANY + 1)
    rows = torch.tensor(2 * MANY + 3)
    options = ClassificationOptions(kind="classification", problem="multi_label", label_names=("a", "b"))
    labels = MultiLabel(options, {"label_names": ["a", "b"]})
    counts = {"tp": none, "fp": none, "fn": none, "rows": rows, "rows_right": right, "f1_of_rows": right.double()}
    assert labels.metrics(counts)["subset_accuracy"] == (2 * MANY + 1) / (2 * MANY + 3)
    tagger = object.__new__(TokenClassification)
    tagger._types = ["PER", "LOC"]
    words = {"hit": none, "found": none, "gold": none, "words_right": right, "words": rows}
    assert tagger.metrics(words)["token_accuracy"] == (2 * MANY + 1) / (2 * MANY + 3)
