"""The order of the data is arithmetic: every row once an epoch, and the same for whoever asks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
