"""The order of the data is arithmetic: every row as often as its source weighs, and the same for whoever asks."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.data.order import Order

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


def test_two_who_never_met_agree_on_every_step() -> None:
    one, other = order(), order()
    assert all((one.rows(step) == other.rows(step)).all() for step in (70, 3, 41, 0))


def test_epochs_and_seeds_differ() -> None:
    assert (order().rows(0) != order().rows(order().steps_per_epoch)).any()
    assert (order().rows(0) != order(seed=1).rows(0)).any()


def test_the_order_is_the_same_for_ever() -> None:
    # Written down from a run: an old run directory must go on in its own order under a newer numpy.
    assert order(num_rows=10, size=4, window=0).rows(0).tolist() == [0, 2, 9, 1]
    assert order(num_rows=10, size=2, window=2).rows(7).tolist() == [2, 0]


def test_a_window_puts_rows_of_like_length_together() -> None:
    def spread(window: int) -> float:
        its = order(window=window)
        return float(np.mean([np.ptp(its.lengths[its.rows(step)]) for step in range(its.steps_per_epoch - 1)]))

    assert spread(10) < spread(0) / 4


@pytest.mark.parametrize(("num_epochs", "max_steps", "expected"), [(2.0, None, 64), (0.5, None, 16), (2.0, 7, 7)])
def test_a_training_is_as_long_as_asked_for(num_epochs: float, max_steps: int | None, expected: int) -> None:
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
        its = found[order.sources == number]
        assert its.sum() == max(1, math.floor(len(its) * weight + 0.5))
        assert its.max() - its.min() <= 1


@given(MIXTURES, st.integers(1, 8))
def test_over_many_epochs_no_row_comes_more_than_once_more_than_another_of_its_source(
    order: Order, num_epochs: int
) -> None:
    assert order.sources is not None
    found = counts(order, range(num_epochs))
    for number in range(len(order.weights)):
        its = found[order.sources == number]
        assert its.max() - its.min() <= 1


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


def test_the_order_of_a_mixture_is_the_same_for_ever() -> None:
    sources = np.array([0, 1, 0, 0, 1, 0, 1, 0], dtype=np.int32)
    order = Order(np.ones(8, dtype=np.int32), 5, 0, 0, sources=sources, weights=(0.5, 2.0))
    assert [order.rows(step).tolist() for step in (0, 1, 2)] == [[0, 1, 1, 6, 4], [3, 2, 4, 6], [5, 4, 6, 7, 3]]
