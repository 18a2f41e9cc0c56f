"""Distribution: every row to one rank, as many micro-batches for all, none over the budget, little padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardtune.trainer.data.batches.deal import Positions, deal
from shardtune.trainer.tasks.batch import Batch, pad
from shardtune.trainer.tasks.example import IGNORED

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=120).map(lambda lengths: np.array(lengths, dtype=np.int32))


def padded_tokens(share: list[Positions], lengths: np.ndarray) -> int:
    return sum(len(piece) * int(lengths[piece].max()) for piece in share if len(piece))


@given(LENGTHS, st.integers(1, 9), st.integers(1, 2000))
def test_each_row_goes_to_one_rank_and_all_ranks_do_as_many_passes(
    lengths: np.ndarray, world_size: int, budget: int
) -> None:
    shares = deal(lengths, world_size=world_size, micro_batch_tokens=budget)
    assert len(shares) == world_size
    assert len({len(share) for share in shares}) == 1
    assert sorted(int(row) for share in shares for piece in share for row in piece) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 9), st.integers(1, 2000))
def test_no_micro_batch_is_over_the_budget_unless_it_is_one_row(
    lengths: np.ndarray, world_size: int, budget: int
) -> None:
    for share in deal(lengths, world_size=world_size, micro_batch_tokens=budget):
        for piece in share:
            assert len(piece) <= 1 or len(piece) * lengths[piece].max() <= budget


def test_ranks_share_the_cost_evenly() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 512).astype(np.int32)
    costs = [padded_tokens(share, lengths) for share in deal(lengths, world_size=8, micro_batch_tokens=4096)]
    assert max(costs) < 1.1 * min(costs)


def test_rows_of_similar_length_go_together() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 512).astype(np.int32)
    shares = deal(lengths, world_size=2, micro_batch_tokens=4096)
    assert lengths.sum() / sum(padded_tokens(share, lengths) for share in shares) > 0.9


def test_fewer_rows_than_ranks_leave_empty_passes() -> None:
    shares = deal(np.array([5, 7], dtype=np.int32), world_size=3, micro_batch_tokens=100)
    assert sorted(len(piece) for share in shares for piece in share) == [0, 1, 1]


def test_a_muted_batch_has_no_target() -> None:
    batch = Batch({"input_ids": torch.ones(2, 3)}, torch.tensor([0, 1]))
    assert batch.muted().labels.tolist() == [IGNORED, IGNORED]
    assert batch.targets.tolist() == [True, True] and batch.muted().targets.tolist() == [False, False]


def test_minus_a_hundred_is_a_target_among_real_numbers_and_nan_is_none() -> None:
    batch = Batch({}, torch.tensor([float(IGNORED), 0.5]))
    assert batch.targets.tolist() == [True, True] and batch.muted().targets.tolist() == [False, False]


@pytest.mark.parametrize("rows", [[[1]], [[1, 2], [3]], [[1], [2, 3, 4], []]])
def test_padding_is_on_the_right(rows: list[list[int]]) -> None:
    padded = pad(rows, 0)
    assert padded.shape == (len(rows), max(map(len, rows)))
    assert [row[: len(own)] for row, own in zip(padded.tolist(), rows, strict=True)] == rows
