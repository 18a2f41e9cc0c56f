"""Every beginning of a mixture has each source's part of it, to one place."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shardtune.trainer.data.batches.mixture import FEW, by_halves, interleave, one_by_one, stretches

COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any)


def furthest_off(places: NDArray[np.int16], counts: list[int]) -> float:
    at = np.arange(1, len(places) + 1)
    return max(
        float(np.abs(np.cumsum(places == source) - at * count / len(places)).max())
        for source, count in enumerate(counts)
    )


@given(COUNTS)
def test_a_mixture_is_exact_to_one_place_however_many_sources_it_has(counts: list[int]) -> None:
    places = interleave(counts)
    assert np.bincount(places, minlength=len(counts)).tolist() == counts
    assert furthest_off(places, counts) <= 1


@given(COUNTS)
def test_so_is_one_laid_out_place_by_place(counts: list[int]) -> None:
    places = one_by_one(counts, counts)
    assert np.bincount(places, minlength=len(counts)).tolist() == counts
    assert furthest_off(places, counts) <= 1


def test_where_halving_adds_up_to_more_than_one_place_the_rule_decides() -> None:
    counts = [256, 272, 126, 330, 127, 1]
    assert furthest_off(by_halves(counts), counts) > 1 >= furthest_off(interleave(counts), counts)


def test_two_sources_take_turns() -> None:
    assert interleave([3, 3]).tolist() in ([0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0])
    assert interleave([1, 4]).tolist() == [1, 1, 0, 1, 1]


@given(COUNTS, st.data())
def test_many_stretches_at_a_time_are_the_same_as_each_alone(counts: list[int], data: st.DataObject) -> None:
    sources = [source for source, count in enumerate(counts) if count]
    drawn = st.lists(st.sampled_from(sources), max_size=30)
    wanted = [np.bincount(data.draw(drawn), minlength=len(counts)) for _ in range(2 * FEW)]
    late = [[data.draw(st.integers(-5, 5)) * (count > 0) for count in counts] for _ in wanted]
    at_once = stretches(counts, np.array(wanted), np.array(late))
    alone = [one_by_one(counts, stretch.tolist(), behind) for stretch, behind in zip(wanted, late, strict=True)]
    assert at_once.tolist() == np.concatenate(alone).tolist()
