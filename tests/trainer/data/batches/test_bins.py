"""Packing: every example in one bin, no bin too full, as few as best-fit promises, never costlier than padding."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.trainer.data.batches.bins import Packing, Share, lay_out, pack, shape_of
from shardtune.trainer.data.batches.cost import TYPICAL
from shardtune.trainer.data.batches.deal import Positions, deal

CAPACITY = 60
LENGTHS = st.lists(st.integers(1, CAPACITY), min_size=1, max_size=80).map(
    lambda lengths: np.array(lengths, dtype=np.int32)
)
PACKING = Packing(CAPACITY, is_flat=False)


def sums(bins: list[Positions], lengths: np.ndarray) -> list[int]:
    return [int(lengths[positions].sum()) for positions in bins]


def first_fit(lengths: np.ndarray, capacity: int) -> int:
    """How many bins the rule needs that puts each into the first one with room, as they come."""
    rooms: list[int] = []
    for length in lengths.tolist():
        place = next((at for at, room in enumerate(rooms) if room >= length), None)
        if place is None:
            rooms.append(capacity - length)
        else:
            rooms[place] -= length
    return len(rooms)


def fewest(lengths: list[int], capacity: int) -> int:
    """The fewest bins possible, by trying all."""
    for count in range(1, len(lengths) + 1):
        for chosen in product(range(count), repeat=len(lengths)):
            if all(
                sum(length for length, number in zip(lengths, chosen, strict=True) if number == at) <= capacity
                for at in range(count)
            ):
                return count
    raise AssertionError("each in a bin of its own fits")


@given(LENGTHS)
def test_every_example_is_in_one_bin_and_no_bin_is_too_full(lengths: np.ndarray) -> None:
    bins = pack(lengths, CAPACITY)
    assert sorted(int(at) for positions in bins for at in positions) == list(range(len(lengths)))
    assert max(sums(bins, lengths)) <= CAPACITY


@given(LENGTHS)
def test_no_two_bins_could_be_one(lengths: np.ndarray) -> None:
    emptiest = sorted(sums(pack(lengths, CAPACITY), lengths))[:2]
    assert len(emptiest) < 2 or sum(emptiest) > CAPACITY


@given(st.lists(st.integers(1, 12), min_size=1, max_size=7))
def test_bins_are_as_few_as_best_fit_decreasing_promises(lengths: list[int]) -> None:
    assert len(pack(np.array(lengths, dtype=np.int32), 12)) <= 11 / 9 * fewest(lengths, 12) + 6 / 9


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("typical", [20, 100, 300])
def test_bins_are_at_least_as_full_as_those_of_first_fit(typical: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).lognormal(np.log(typical), 0.8, 500)
    lengths = np.clip(drawn, 1, 512).astype(np.int32)
    bins = pack(lengths, 512)
    assert len(bins) <= first_fit(lengths, 512)
    assert len(bins) <= -(-lengths.sum() // 512) * (1.02 if typical < 300 else 1.1)


def test_an_example_that_does_not_fit_is_a_bug_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="has to fit"):
        pack(np.array([5, 61], dtype=np.int32), CAPACITY)


def total_cost(shares: list[Share], lengths: np.ndarray) -> float:
    """The cost of a step whose ranks wait for each other after each micro-batch."""
    shapes = [[shape_of(bins, lengths, PACKING) for bins in share] for share in shares]
    return sum(
        max(TYPICAL.of_rows(longest, rows) if rows else 0 for rows, longest in by_rank)
        for by_rank in zip(*shapes, strict=True)
    )


@given(LENGTHS, st.integers(1, 9), st.integers(CAPACITY, 600))
def test_a_layout_gives_every_example_to_one_rank_and_all_ranks_as_many_passes(
    lengths: np.ndarray, world_size: int, budget: int
) -> None:
    shares = lay_out(lengths, world_size=world_size, micro_batch_tokens=budget, packing=PACKING)
    assert len(shares) == world_size and len({len(share) for share in shares}) == 1
    bins = [positions for share in shares for micro_batch in share for positions in micro_batch]
    assert sorted(int(at) for positions in bins for at in positions) == list(range(len(lengths)))
    assert max(sums(bins, lengths)) <= CAPACITY
    for share in shares:
        for micro_batch in share:
            rows, longest = shape_of(micro_batch, lengths, PACKING)
            assert rows * longest <= budget


@given(LENGTHS, st.integers(1, 9), st.integers(CAPACITY, 600))
def test_packing_never_costs_more_than_padding(lengths: np.ndarray, world_size: int, budget: int) -> None:
    packed, padded = (
        lay_out(lengths, world_size=world_size, micro_batch_tokens=budget, packing=packing)
        for packing in (PACKING, None)
    )
    assert total_cost(packed, lengths) <= total_cost(padded, lengths)


def test_ragged_rows_waste_little() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(4, 0.8, 256), 1, 512).astype(np.int32)
    shares = lay_out(lengths, world_size=2, micro_batch_tokens=16384, packing=Packing(512, is_flat=False))
    computed = sum(
        rows * longest for share in shares for bins in share for rows, longest in [shape_of(bins, lengths, None)]
    )
    assert lengths.sum() / computed > 0.97


def test_bins_are_kept_short_rather_than_leaving_ranks_idle() -> None:
    lengths = np.full(32, 20, dtype=np.int32)
    shares = lay_out(lengths, world_size=8, micro_batch_tokens=16384, packing=Packing(512, is_flat=False))
    assert [sum(sums(share[0], lengths)) for share in shares] == [80] * 8


@given(LENGTHS, st.integers(1, 9), st.integers(CAPACITY, 600))
def test_without_packing_each_bin_is_one_row(lengths: np.ndarray, world_size: int, budget: int) -> None:
    shares = lay_out(lengths, world_size=world_size, micro_batch_tokens=budget, packing=None)
    dealt = deal(lengths, world_size=world_size, micro_batch_tokens=budget)
    assert [[[int(at) for (at,) in bins] for bins in share] for share in shares] == [
        [piece.tolist() for piece in share] for share in dealt
    ]


@pytest.mark.parametrize(("is_flat", "expected"), [(False, (2, 9)), (True, (1, 14))])
def test_flat_bins_are_one_row_without_padding(is_flat: bool, expected: tuple[int, int]) -> None:
    lengths, bins = np.array([4, 5, 5], dtype=np.int32), [np.array([0, 1]), np.array([2])]
    assert shape_of(bins, lengths, Packing(9, is_flat=is_flat)) == expected
    assert shape_of([], lengths, Packing(9, is_flat=is_flat)) == (0, 0)
