"""Batches with rounded lengths: the budget holds with the padding that is added, and it is counted as padding."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch

from shardtune.trainer.data.batches.batch_maker import BatchMaker, seeds_of_rows
from shardtune.trainer.data.batches.bins import Packing
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.tasks import causal
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.padding import Rounding

LENGTHS = np.array([3, 21, 9, 14, 5, 8, 17, 30, 2, 11], dtype=np.int32)
BUDGET = 64


class Rows:
    """Examples of these lengths."""

    lengths = LENGTHS
    num_targets = (LENGTHS - 1).astype(np.float64)

    def examples(self, rows: Any) -> list[Example]:
        return [causal.example_of(range(1, length + 1), [1.0] * length) for length in LENGTHS[rows].tolist()]


class CausalTask:
    """As far as batches need one."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        return causal.collate(examples, pad_id=0)


def batches(packing: Packing | None, rounding: Rounding) -> tuple[list[Batch], int]:
    maker = BatchMaker(cast(Any, CausalTask()), Ranks(0, 1, 0, torch.device("cpu")), packing, BUDGET, rounding=rounding)
    rows = np.arange(len(LENGTHS))
    made, num_padded_tokens = maker.micro_batches(Rows(), rows, seeds_of_rows(rows))
    return list(made), num_padded_tokens


@pytest.mark.parametrize("packing", [None, Packing(30, is_flat=False), Packing(30, is_flat=True)])
def test_all_is_padded_to_a_few_lengths_within_the_budget(packing: Packing | None) -> None:
    made, num_padded_tokens = batches(packing, Rounding(8, limit=30))
    is_flat = packing is not None and packing.is_flat
    for batch in made:
        rows, longest = batch.shape
        assert longest % 8 == 0 or (longest == 30 and not is_flat)
        assert rows * longest <= BUDGET
    assert num_padded_tokens == sum(rows * longest for rows, longest in (batch.shape for batch in made))
    exact, fewer = batches(packing, Rounding())
    assert fewer <= num_padded_tokens
    assert sum(int(batch.num_targets) for batch in made) == sum(int(batch.num_targets) for batch in exact)
