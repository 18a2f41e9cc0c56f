"""The order of the data is arithmetic: every row as often as its source weighs, and the same on every rank."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shardtune.trainer.data.batches.order import Order

ORDERS = st.builds(
    lambda lengths, size, window, seed: Order(np.array(lengths, dtype=np.int32), size, window, seed),
    st.lists(st.integers(1, 100), min_size=1, max_size=200),
    st.integers(1, 40),
    st.integers(0, 5),
    st.integers(0, 2**32 - 1),
)


def order(num_rows: int = 1000, size: int = 32, window: int = 10, seed: int = 0) -> Order:
    lengths = np.random.default_rng(7).integers(1, 500, num_rows).astype(np.int32)
    return Order(lengths, size, window, seed)


@given(ORDERS, st.integers(0, 3))
def test_every_epoch_holds_every_row_exactly_once(order: Order, epoch: int) -> None:
    first = epoch * order.steps_per_epoch
    rows = np.concatenate([order.rows(step) for step in range(first, first + order.steps_per_epoch)])
    assert sorted(rows.tolist()) == list(range(len(order.lengths)))


@given(ORDERS)
def test_every_step_but_an_epochs_last_is_full(order: Order) -> None:
    sizes = [len(order.rows(step)) for step in range(order.steps_per_epoch)]
    assert set(sizes[:-1]) <= {order.global_batch_size}
    assert 0 < sizes[-1] <= order.global_batch_size


def test_independent_orders_agree_on_every_step() -> None:
    one, other = order(), order()
    assert all((one.rows(step) == other.rows(step)).all() for step in (70, 3, 41, 0))


def test_epochs_and_seeds_differ() -> None:
    assert (order().rows(0) != order().rows(order().steps_per_epoch)).any()
    assert (order().rows(0) != order(seed=1).rows(0)).any()


def test_the_order_is_the_same_in_every_version() -> None:
    # Written down from a run: an old run directory must resume in its own order under a newer numpy.
    assert order(num_rows=10, size=4, window=0).rows(0).tolist() == [0, 2, 9, 1]
    assert order(num_rows=10, size=2, window=2).rows(7).tolist() == [2, 0]


def test_a_window_puts_rows_of_similar_length_together() -> None:
    def spread(window: int) -> float:
        own = order(window=window)
        return float(np.mean([np.ptp(own.lengths[own.rows(step)]) for step in range(own.steps_per_epoch - 1)]))

    assert spread(10) < spread(0) / 4


@pytest.mark.parametrize(("num_epochs", "max_steps", "expected"), [(2.0, None, 64), (0.5, None, 16), (2.0, 7, 7)])
def test_a_training_is_as_long_as_requested(num_epochs: float, max_steps: int | None, expected: int) -> None:
    assert order().num_steps(num_epochs, max_steps) == expected


def weighted(sizes: Sequence[int], weights: Sequence[float], size: int = 4, seed: int = 0, window: int = 0) -> Order:
    """Sources of these sizes, their rows mixed."""
    sources = np.random.default_rng(3).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    lengths = np.random.default_rng(5).integers(1, 50, len(sources)).astype(np.int32)
    return Order(lengths, size, window, seed, sources=sources, weights=tuple(weights))


def counts(order: Order, epochs: range) -> NDArray[np.int64]:
    """How often these epochs together hold each row."""
    steps = range(epochs.start * order.steps_per_epoch, epochs.stop * order.steps_per_epoch)
    return np.bincount(np.concatenate([order.rows(step) for step in steps]), minlength=len(order.lengths))


MIXTURES = st.lists(st.tuples(st.integers(1, 30), st.floats(0.05, 4)), min_size=1, max_size=4).map(
    lambda pairs: weighted(*zip(*pairs, strict=True), size=7, window=2)
)


@given(MIXTURES, st.integers(0, 5))
def test_an_epoch_holds_each_row_as_often_as_its_weight_says_or_once_more(order: Order, epoch: int) -> None:
    assert order.sources is not None
    found = counts(order, range(epoch, epoch + 1))
    assert found.sum() == order.rows_per_epoch
    for number, weight in enumerate(order.weights):
        counted = found[order.sources == number]
        assert counted.sum() == max(1, math.floor(len(counted) * weight + 0.5))
        assert counted.max() - counted.min() <= 1


@given(MIXTURES, st.integers(1, 8))
def test_over_many_epochs_no_row_comes_more_than_once_more_than_another_of_its_source(
    order: Order, num_epochs: int
) -> None:
    assert order.sources is not None
    found = counts(order, range(num_epochs))
    for number in range(len(order.weights)):
        counted = found[order.sources == number]
        assert counted.max() - counted.min() <= 1


def test_half_of_a_source_is_in_one_epoch_and_the_other_half_in_the_next() -> None:
    order = weighted([20, 10], [0.5, 2.0])
    small, large = order.sources == 0, order.sources == 1
    first, second = counts(order, range(1)), counts(order, range(1, 2))
    assert sorted(first[small]) == [0] * 10 + [1] * 10
    assert (first[small] + second[small] == 1).all()
    assert (first[large] == 2).all() and (second[large] == 2).all()
    assert (order.rows_per_epoch, order.steps_per_epoch, order.num_steps(3, None)) == (30, 8, 24)


def test_another_seed_takes_another_half() -> None:
    one, other = (counts(weighted([200], [0.5], seed=seed), range(1)) for seed in (0, 1))
    assert 30 < (one & other).sum() < 70


@given(ORDERS, st.integers(0, 3), st.integers(1, 5))
def test_sources_that_weigh_one_change_nothing(order: Order, epoch: int, num_sources: int) -> None:
    sources = (np.arange(len(order.lengths)) % num_sources).astype(np.int32)
    mixed = replace(order, sources=sources, weights=(1.0,) * num_sources)
    assert mixed.steps_per_epoch == order.steps_per_epoch
    for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
        assert (mixed.rows(step) == order.rows(step)).all()


def test_the_order_of_a_mixture_is_the_same_in_every_version() -> None:
    sources = np.array([0, 1, 0, 0, 1, 0, 1, 0], dtype=np.int32)
    order = Order(np.ones(8, dtype=np.int32), 5, 0, 0, sources=sources, weights=(0.5, 2.0))
    assert [order.rows(step).tolist() for step in (0, 1, 2)] == [[1, 0, 6, 4, 3], [6, 1, 2, 4], [6, 7, 1, 4, 5]]


def furthest_off(order: Order, epoch: int) -> float:
    """How many rows a source is from its part of the rows up to any step, at most."""
    assert order.sources is not None
    share = np.bincount(order.sources[all_rows(order, 0)], minlength=len(order.weights)) / order.rows_per_epoch
    so_far, num_rows, furthest = np.zeros(len(order.weights)), 0, 0.0
    for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
        rows = order.rows(step)
        so_far += np.bincount(order.sources[rows], minlength=len(order.weights))
        num_rows += len(rows)
        furthest = max(furthest, float(np.abs(so_far - share * num_rows).max()))
    return furthest


def all_rows(order: Order, epoch: int) -> NDArray[np.int64]:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return np.concatenate([order.rows(step) for step in steps])


MANY_SOURCES = st.builds(
    lambda pairs, size, window, seed: weighted(*zip(*pairs, strict=True), size=size, window=window, seed=seed),
    st.lists(
        st.tuples(st.integers(1, 40), st.floats(0.05, 4).filter(lambda weight: weight != 1)), min_size=1, max_size=7
    ),
    st.integers(1, 9),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1),
)


@given(MANY_SOURCES, st.integers(0, 3))
def test_up_to_any_step_each_source_has_its_part_to_within_one_row(order: Order, epoch: int) -> None:
    assert furthest_off(order, epoch) <= 1 + 1e-9


def test_a_mixture_that_is_only_shuffled_would_not_have_it() -> None:
    plain = weighted([400, 100], [1.0, 1.0])
    assert furthest_off(plain, 0) > 2 > 1 >= furthest_off(replace(plain, weights=(2.0, 2.0)), 0)


def test_each_round_through_a_source_has_another_order() -> None:
    order = weighted([50, 10], [1.0, 3.0])
    assert order.sources is not None
    rows = all_rows(order, 0)
    small = rows[order.sources[rows] == 1].reshape(3, 10)
    assert all(sorted(turn) == sorted(small[0]) for turn in small) and (small[0] != small[1]).any()


TOKEN_BATCHES = st.builds(
    lambda pairs, tokens, window, seed: Order(
        np.array([length for length, _ in pairs], dtype=np.int32),
        1,
        window,
        seed,
        num_targets=np.array([targets for _, targets in pairs], dtype=np.float64),
        global_batch_tokens=tokens,
    ),
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 60)), min_size=1, max_size=150),
    st.integers(1, 500),
    st.integers(0, 4),
    st.integers(0, 2**32 - 1),
)


@given(TOKEN_BATCHES, st.integers(0, 3))
def test_steps_of_similar_numbers_of_targets_hold_every_row_once(order: Order, epoch: int) -> None:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    assert all(len(order.rows(step)) for step in steps)
    assert sorted(all_rows(order, epoch).tolist()) == list(range(len(order.lengths)))


@given(TOKEN_BATCHES, st.integers(0, 3))
def test_a_step_is_no_more_than_a_row_from_its_even_share_of_the_targets(order: Order, epoch: int) -> None:
    assert order.num_targets is not None and order.global_batch_tokens is not None
    share = order.num_targets.sum() / order.steps_per_epoch
    largest = order.num_targets.max()
    # Where rows have more targets than a step is to have, a step is of one row, and others give way.
    if largest * 2 <= share:
        for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
            assert abs(order.num_targets[order.rows(step)].sum() - share) <= largest
        assert share == pytest.approx(order.global_batch_tokens, rel=1 / (2 * order.steps_per_epoch) + 1e-9) or (
            order.steps_per_epoch == 1
        )


def test_windows_of_similar_length_are_cut_into_steps_of_targets_too() -> None:
    def spread(window: int) -> float:
        own = order(window=window)
        own = replace(own, num_targets=own.lengths.astype(np.float64), global_batch_tokens=8000)
        sizes = [np.ptp(own.lengths[own.rows(step)]) for step in range(own.steps_per_epoch)]
        assert 30 < own.steps_per_epoch < 33
        return float(np.mean(sizes))

    assert spread(10) < spread(0) / 3


def test_each_step_of_targets_is_mixed_to_within_two_rows() -> None:
    order = weighted([300, 200], [0.5, 2.0], window=3)
    order = replace(order, num_targets=order.lengths.astype(np.float64), global_batch_tokens=700)
    assert order.sources is not None
    for step in range(2 * order.steps_per_epoch):
        rows = order.rows(step)
        assert abs((order.sources[rows] == 0).sum() - len(rows) * 150 / 550) <= 2
