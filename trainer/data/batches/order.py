"""Which rows an optimizer step trains on.

Arithmetic on (seed, epoch, step, lengths): nothing here reads a row or keeps state, so resuming at any step, on any
number of ranks, costs nothing and repeats nothing.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.batches.mixture import interleave

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Order:
    """The order of the rows of a data set, the same in every version.

    Each epoch holds every row exactly once, or as often as the weight of its source says. Its steps have
    `global_batch_size` rows, the last one the rest; or, if `global_batch_tokens` is set, as many rows as come nearest
    to an even share of the epoch's targets.
    """

    lengths: NDArray[np.int32]
    """Tokens of each row; shape (rows,)."""
    global_batch_size: int
    length_window: int
    """Global batches in a window of rows sorted by length; 0 for a fully random order."""
    seed: int
    sources: NDArray[np.int32] | None = None
    """The number of each row's source, shape (rows,); None if there is only one source."""
    weights: tuple[float, ...] = (1.0,)
    """How often an epoch holds the rows of each source. If any weight is not 1, each step has each source's part of
    its rows, and so have all steps up to any one, to within one row (with global_batch_tokens each step to within two
    rows)."""
    num_targets: NDArray[np.float64] | None = None
    """Targets of each row, shape (rows,); needed with global_batch_tokens."""
    global_batch_tokens: int | None = None
    """The approximate targets of a step; None counts rows instead."""

    @cached_property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch, the same for every epoch."""
        if self.global_batch_tokens is None:
            return -(-self.rows_per_epoch // self.global_batch_size)
        assert self.num_targets is not None, "batches of targets need the targets of the rows"
        total = sum(
            share * float(np.mean(self.num_targets[rows]))
            for rows, share in zip(self._by_source, self._shares, strict=True)
            if share
        )
        return min(self.rows_per_epoch, max(1, round(total / self.global_batch_tokens)))

    @cached_property
    def rows_per_epoch(self) -> int:
        """The rows of an epoch, the same for every epoch; each is counted as often as it occurs."""
        return sum(self._shares)

    @cached_property
    def _shares(self) -> list[int]:
        """How many rows of each source an epoch holds."""
        return [_share(len(rows), weight) for rows, weight in zip(self._by_source, self.weights, strict=True)]

    @cached_property
    def _places(self) -> NDArray[np.int16] | None:
        """The source of each place of an epoch; None if the sources are not mixed by weight."""
        return interleave(self._shares) if any(weight != 1 for weight in self.weights) else None

    @cached_property
    def _by_source(self) -> list[Rows]:
        if self.sources is None:
            return [np.arange(len(self.lengths))]
        return [np.flatnonzero(self.sources == number) for number in range(len(self.weights))]

    def rows(self, step: int) -> Rows:
        """The row numbers of the global batch of this step, counted from 0 over all epochs."""
        number, position = divmod(step, self.steps_per_epoch)
        epoch = _epoch(self, number)
        return epoch.rows[epoch.ends[position - 1] if position else 0 : epoch.ends[position]]

    def num_steps(self, num_epochs: float, max_steps: int | None) -> int:
        """The steps of a whole training."""
        return max_steps if max_steps is not None else max(1, round(num_epochs * self.steps_per_epoch))


class _Epoch(NamedTuple):
    rows: Rows
    """In training order; shape (rows per epoch,)."""
    ends: NDArray[np.int64]
    """Where the rows of each step end; shape (steps per epoch,)."""


@lru_cache(maxsize=2)
def _epoch(order: Order, number: int) -> _Epoch:
    random = _random(order.seed, number)
    places = order._places
    if order.global_batch_tokens is not None:
        return _by_targets(order, number, random, places)
    size, num_full = order.global_batch_size, order.rows_per_epoch // order.global_batch_size
    ends = np.minimum(np.arange(1, order.steps_per_epoch + 1) * size, order.rows_per_epoch)
    if order.length_window == 0 or num_full < 2:
        return _Epoch(_in_windows(order, number, random, places, 0), ends)
    # The last batch of an epoch may be short; its rows are in no window, so that every other batch is full.
    whole = num_full * size
    if places is None:
        rows = _shuffle(random, order.rows_per_epoch)
        full = _sorted_in_windows(order.lengths, rows[:whole], order.length_window * size)
        shuffled = _shuffle(random, num_full)
        return _Epoch(np.concatenate([full.reshape(num_full, size)[shuffled].reshape(-1), rows[whole:]]), ends)
    # Each batch has to have the places of the step that it becomes when the batches are shuffled.
    shuffled = _shuffle(random, num_full)
    places = np.concatenate([places[:whole].reshape(num_full, size)[np.argsort(shuffled)].reshape(-1), places[whole:]])
    rows = _laid(order, number, places, window=order.length_window * size, sorted_up_to=whole)
    rows[:whole] = rows[:whole].reshape(num_full, size)[shuffled].reshape(-1)
    return _Epoch(rows, ends)


def _by_targets(order: Order, number: int, random: np.random.Philox, places: NDArray[np.int16] | None) -> _Epoch:
    """The rows, sorted by length in windows, cut into steps of about as many targets, and the steps shuffled."""
    assert order.num_targets is not None, "batches of targets need the targets of the rows"
    num_steps, window = order.steps_per_epoch, 0
    if order.length_window and num_steps > 1:
        window = max(1, order.length_window * order.rows_per_epoch // num_steps)
    rows = _in_windows(order, number, random, places, window)
    ends = _cut_evenly(order.num_targets[rows], num_steps)
    if order.length_window == 0:
        return _Epoch(rows, ends)
    starts = np.concatenate([[0], ends[:-1]])
    shuffled = _shuffle(random, num_steps)
    sizes = (ends - starts)[shuffled]
    new_ends = np.cumsum(sizes)
    return _Epoch(rows[np.repeat(starts[shuffled] - new_ends + sizes, sizes) + np.arange(len(rows))], new_ends)


def _cut_evenly(amounts: NDArray[np.float64], num_pieces: int) -> NDArray[np.int64]:
    """The ends of pieces of at least one row and of similar sums; shape (pieces,)."""
    so_far = np.cumsum(amounts)
    wanted = so_far[-1] * np.arange(1, num_pieces) / num_pieces
    # A row belongs to the piece that contains its middle.
    cuts = np.searchsorted(so_far - np.asarray(amounts) / 2, wanted)
    at = np.arange(num_pieces - 1)
    cuts = np.maximum.accumulate(np.maximum(cuts - at, 1)) + at
    cuts = np.minimum(cuts, len(amounts) - num_pieces + 1 + at)
    return np.concatenate([cuts, [len(amounts)]]).astype(np.int64)


def _in_windows(
    order: Order, number: int, random: np.random.Philox, places: NDArray[np.int16] | None, window: int
) -> Rows:
    """The rows of an epoch in random order, sorted by length in windows of `window` rows if that is not 0."""
    if places is not None:
        return _laid(order, number, places, window=window, sorted_up_to=len(places) if window else 0)
    rows = _shuffle(random, order.rows_per_epoch)
    return _sorted_in_windows(order.lengths, rows, window) if window else rows


def _laid(order: Order, number: int, places: NDArray[np.int16], *, window: int, sorted_up_to: int) -> Rows:
    """The rows of an epoch, those of each source in the places of the source, in the source's own order; but those of
    the first `sorted_up_to` places are sorted by length in windows of `window` places."""
    rows = np.empty(len(places), dtype=np.int64)
    for source, share in enumerate(order._shares):
        own = np.flatnonzero(places == source)
        source_rows = _turn(order, source, number * share, (number + 1) * share)
        if num_sorted := int(np.searchsorted(own, sorted_up_to)):
            by_length = _argsort_within(own[:num_sorted] // window, order.lengths[source_rows[:num_sorted]])
            source_rows[:num_sorted] = source_rows[by_length]
        rows[own] = source_rows
    return rows


def _turn(order: Order, source: int, start: int, stop: int) -> Rows:
    """The rows at these places of a source's endless sequence, which goes through all its rows in each round.

    The rows of a part of a round are the same in every round, so that all rows come equally often, however the epochs
    cut the rounds. The order within a part changes.
    """
    rows, key = order._by_source[source], _SOURCE_KEYS + (source << 44)
    rounds = range(start // len(rows) + 1, -(-stop // len(rows))) if len(rows) else ()
    turn: Rows | None = None
    parts = [rows[:0]]
    for at, end in pairwise([start, *(number * len(rows) for number in rounds), stop]):
        part = rows[:0]
        if end - at == len(rows):
            part = rows  # a whole round: no rows to choose
        elif at < end:
            turn = rows[_shuffle(_random(order.seed, key), len(rows))] if turn is None else turn
            part = turn[at % len(rows) :][: end - at]
        parts.append(part[_shuffle(_random(order.seed, key + 1 + at), len(part))])
    return np.concatenate(parts)


def _sorted_in_windows(lengths: NDArray[np.int32], rows: Rows, window: int) -> Rows:
    """The rows, sorted by length in windows of `window` rows, stably; the last window may be shorter."""
    keys: NDArray[Any] = lengths[rows]
    if len(keys) and keys.max() < 2**16:
        keys = keys.astype(np.uint16)  # numpy uses radix sort for these: 30 times faster than one sort of 10 million
    whole = len(keys) // window * window
    starts = np.arange(0, whole, window)[:, np.newaxis]
    parts = (np.argsort(keys[:whole].reshape(-1, window), axis=1, kind="stable") + starts).reshape(-1)
    by_length: Rows = np.concatenate([parts, np.argsort(keys[whole:], kind="stable") + whole])
    return rows[by_length]


def _argsort_within(groups: NDArray[np.int64], keys: NDArray[np.int32]) -> Rows:
    """The stable order of the keys within each group; `groups` is in rising order."""
    for_keys, for_places = int(keys.max()).bit_length(), len(keys).bit_length()
    if int(groups[-1]).bit_length() + for_keys + for_places > 63:
        return np.lexsort((keys, groups))
    # Numbers that hold all three are sorted three times as fast as the arrays themselves.
    packed = (((groups << for_keys) | keys) << for_places) | np.arange(len(keys))
    packed.sort()
    return packed & ((1 << for_places) - 1)


_SOURCE_KEYS = 2**63
"""Greater than the number of any epoch; these are the other keys."""


def _share(num_rows: int, weight: float) -> int:
    """How many rows of a source an epoch holds; at least one."""
    return max(min(num_rows, 1), math.floor(num_rows * weight + 0.5))


def shuffled(seed: int, number: int, count: int) -> Rows:
    """A random order of `count` rows; another seed or number gives another order."""
    return _shuffle(_random(seed, number), count)


def _random(seed: int, number: int) -> np.random.Philox:
    # An array of uint64, because numpy turns a list with numbers beyond 2**63 into floats, where close ones are equal.
    return np.random.Philox(key=np.array([seed, number], dtype=np.uint64))


def _shuffle(random: np.random.Philox, count: int) -> Rows:
    # Sorts raw 64-bit draws, because numpy guarantees the raw stream of a bit generator across versions (NEP 19), but
    # not that of Generator.permutation. The position replaces the lower bits of a draw, because sorting is twice as
    # fast as argsort; the few draws that then tie are put in order by the bits that they lost.
    draws = random.random_raw(count)
    below = np.uint64((1 << count.bit_length()) - 1)
    packed = (draws & ~below) | np.arange(count, dtype=np.uint64)
    packed.sort()
    order = (packed & below).astype(np.int64)
    tied = np.flatnonzero((packed[1:] ^ packed[:-1]) <= below)
    if len(tied):
        places = np.union1d(tied, tied + 1)
        tied_rows = order[places]
        order[places] = tied_rows[np.argsort(draws[tied_rows], kind="stable")]
    return order
