"""Which rows an optimizer step trains on.

Arithmetic on (seed, epoch, step, lengths): nothing here reads a row or keeps a state, so resuming at any step, on any
number of ranks, costs nothing and repeats nothing.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Order:
    """The order of one data set's rows, for ever.

    Each epoch holds every row exactly once, or as often as its source's weight says: steps of `global_batch_size` rows,
    an epoch's last one with what is left.
    """

    lengths: NDArray[np.int32]
    """Tokens of each row; shape (rows,)."""
    global_batch_size: int
    length_window: int
    """Global batches in a window of rows sorted by length; 0 for a fully random order."""
    seed: int
    sources: NDArray[np.int32] | None = None
    """The number of each row's source; None if they are all of one. Shape (rows,)."""
    weights: tuple[float, ...] = (1.0,)
    """How often an epoch holds the rows of each source."""

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows_per_epoch // self.global_batch_size)

    @cached_property
    def rows_per_epoch(self) -> int:
        """In every epoch as many, each counted as often as it is in it."""
        return sum(_share(len(rows), weight) for rows, weight in zip(self._by_source, self.weights, strict=True))

    @cached_property
    def _by_source(self) -> list[Rows]:
        if self.sources is None:
            return [np.arange(len(self.lengths))]
        return [np.flatnonzero(self.sources == number) for number in range(len(self.weights))]

    def rows(self, step: int) -> Rows:
        """The row numbers of the global batch of this step, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        rows = _epoch(self, epoch)
        return rows[position * self.global_batch_size : (position + 1) * self.global_batch_size]

    def num_steps(self, num_epochs: float, max_steps: int | None) -> int:
        """The steps of a whole training."""
        return max_steps if max_steps is not None else max(1, round(num_epochs * self.steps_per_epoch))


@lru_cache(maxsize=2)
def _epoch(order: Order, epoch: int) -> Rows:
    """All rows of an epoch in training order; shape (rows per epoch,)."""
    size, num_full = order.global_batch_size, order.rows_per_epoch // order.global_batch_size
    random = np.random.Philox(key=[order.seed, epoch])
    rows = _drawn(order, epoch)[_shuffle(random, order.rows_per_epoch)]
    if order.length_window == 0 or num_full < 2:
        return rows
    # The last batch of an epoch is short; its rows stay out of the windows, so that every other batch is full.
    full, rest = rows[: num_full * size], rows[num_full * size :]
    window = np.arange(len(full)) // (order.length_window * size)
    batches = full[np.lexsort((order.lengths[full], window))].reshape(num_full, size)
    return np.concatenate([batches[_shuffle(random, num_full)].reshape(-1), rest])


def _drawn(order: Order, epoch: int) -> Rows:
    """The rows of an epoch, sorted, each as often as it is in it."""
    if all(weight == 1 for weight in order.weights):
        return np.arange(len(order.lengths))
    drawn = []
    for number, (rows, weight) in enumerate(zip(order._by_source, order.weights, strict=True)):
        # All epochs together go round and round the rows of a source, in one order for ever: so each row is in an epoch
        # as often as any other or once more, and no row is left behind over the epochs.
        turn = rows[_shuffle(np.random.Philox(key=[order.seed, _SOURCE_KEYS + number]), len(rows))]
        share = _share(len(rows), weight)
        drawn.append(np.take(turn, np.arange(epoch * share, (epoch + 1) * share), mode="wrap"))
    return np.sort(np.concatenate(drawn))


_SOURCE_KEYS = 2**63
"""Beyond every epoch, whose numbers are the other keys."""


def _share(num_rows: int, weight: float) -> int:
    """How many rows of a source an epoch holds; one at least."""
    return max(min(num_rows, 1), math.floor(num_rows * weight + 0.5))


def _shuffle(random: np.random.Philox, count: int) -> Rows:
    # Sorting raw 64-bit draws, for numpy promises the raw stream of a bit generator across versions (NEP 19), but not
    # that of Generator.permutation.
    return np.argsort(random.random_raw(count), kind="stable").astype(np.int64)
