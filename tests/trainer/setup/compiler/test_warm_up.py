"""Before training, a micro-batch of each kind is compiled: of one row and of two, with padding and without."""

from typing import Any, cast

import numpy as np
import pytest
import torch

from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.setup.compiler.warm_up import rows_of_kinds
from shardtune.trainer.tasks.padding import Rounding


def chosen(lengths: list[int], budget: int) -> list[tuple[int, ...]]:
    maker = BatchMaker(
        cast(Any, None), Ranks(0, 1, 0, torch.device("cpu")), None, budget, rounding=Rounding(8, limit=20)
    )
    rows = rows_of_kinds(np.array(lengths, dtype=np.int32), maker)
    return [tuple(lengths[row] for row in kind) for kind in rows]


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([3, 16, 8, 13], 1000, [(16,), (13,), (16, 16), (13, 3)]),
        ([3, 16, 8, 13], 31, [(16,), (13,)]),
        ([3, 5], 1000, [(5,), (5, 3)]),
        ([8, 16], 1000, [(16,), (16, 16), (16, 8)]),
        ([8, 8], 1000, [(8,), (8, 8)]),
        ([20, 4], 1000, [(20,), (4,), (20, 20), (4, 4)]),
    ],
)
def test_rows_with_and_without_padding_alone_and_together(
    lengths: list[int], budget: int, expected: list[tuple[int, ...]]
) -> None:
    assert chosen(lengths, budget) == expected
