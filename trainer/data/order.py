"""Which rows an optimizer step trains on.

Arithmetic on (seed, epoch, step, lengths): nothing here reads a row or keeps a state, so resuming at any step, on any
number of ranks, costs nothing and repeats nothing.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Order:
    """The order of one data set's rows, for ever.

    Each epoch holds every row exactly once: steps of `global_batch_size` rows, an epoch's last one with what is left.
    """

    lengths: NDArray[np.int32]
    """Tokens of each row; shape (rows,)."""
    global_batch_size: int
    length_window: int
    """Global batches in a window of rows sorted by length; 0 for a fully random order."""
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.global_batch_size)

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
    """All rows of an epoch in training order; shape (rows,)."""
    size, num_full = order.global_batch_size, len(order.lengths) // order.global_batch_size
    random = np.random.Philox(key=[order.seed, epoch])
    rows = _shuffle(random, len(order.lengths))
    if order.length_window == 0 or num_full < 2:
        return rows
    # The last batch of an epoch is short; its rows stay out of the windows, so that every other batch is full.
    full, rest = rows[: num_full * size], rows[num_full * size :]
    window = np.arange(len(full)) // (order.length_window * size)
    batches = full[np.lexsort((order.lengths[full], window))].reshape(num_full, size)
    return np.concatenate([batches[_shuffle(random, num_full)].reshape(-1), rest])


def _shuffle(random: np.random.Philox, count: int) -> Rows:
    # Sorting raw 64-bit draws, for numpy promises the raw stream of a bit generator across versions (NEP 19), but not
    # that of Generator.permutation.
    return np.argsort(random.random_raw(count), kind="stable").astype(np.int64)
