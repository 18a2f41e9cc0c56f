"""Duplicate rows: how many there are within a split and between two splits, and which of them are dropped."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shardtune.counted import counted
from shardtune.trainer.data.prepare.digests import Digests, RowDigests

Mask = NDArray[np.bool_]
Mode = Literal["none", "train", "all"]
"""The values of data.deduplicate."""
NUM_SHOWN = 3


@dataclass(frozen=True)
class Leak:
    """Rows of one split with the same input as rows of another split."""

    of: str
    """The split that leaks."""
    inside: str
    """The split in which its rows are found."""
    rows: int
    """How many rows of `of` leak."""
    first: list[str]
    """The locations of the first few, each with a row of the other split."""


class Duplicates:
    """The duplicates within and between some splits.

    Two rows of one split are duplicates if both their inputs (what the model reads) and their answers are the same.
    Between two splits, the same inputs are enough.
    """

    def __init__(self, splits: Mapping[str, RowDigests], location: Callable[[str, int], str]) -> None:
        """`splits` has the digests of each split's rows; `location` says where a row of a split was written."""
        self._location = location
        self._inputs = {split: digests.inputs for split, digests in splits.items()}
        self._is_repeat = {split: _is_repeat(digests.whole) for split, digests in splits.items()}
        self.conflicts = {split: _num_conflicts(digests) for split, digests in splits.items()}
        """By split, the rows that have the same inputs as another row but a different answer."""

    @property
    def repeats(self) -> dict[str, int]:
        """By split, the rows that are duplicates of an earlier row."""
        return {split: int(mask.sum()) for split, mask in self._is_repeat.items()}

    @cached_property
    def leaks(self) -> list[Leak]:
        """For each pair of splits, the rows of the later one that are found in the earlier one."""
        return [self._leak(of, inside) for inside, of in combinations(self._inputs, 2)]

    def dropped(self, mode: Mode) -> dict[str, Mask]:
        """By split, the rows that data.deduplicate drops; shape (rows,)."""
        masks = {split: np.zeros(len(inputs), dtype=bool) for split, inputs in self._inputs.items()}
        for split, mask in masks.items():
            if mode == "all" or (mode == "train" and split == "train"):
                mask |= self._is_repeat[split]
                # Rows in dev or test are dropped from train, rows in test are dropped from dev.
                for other in [later for later in self._inputs if _RANK[later] > _RANK[split]]:
                    mask |= np.isin(self._inputs[split], self._inputs[other])
        return masks

    def notes(self, mode: Mode) -> Iterator[str]:
        """What there is to say about leaks, duplicates and conflicts, if data.deduplicate is `mode`."""
        sizes = {split: len(inputs) for split, inputs in self._inputs.items()}
        for leak in self.leaks:
            if leak.rows:
                remedy = "train" if leak.inside == "train" else "all"
                is_mended = mode in (remedy, "all")
                hint = "" if is_mended else f"; data.deduplicate={remedy} drops those {leak.inside} rows"
                yield (
                    f"leak: {counted(leak.rows, f'{leak.of} row')} ({leak.rows / sizes[leak.of]:.1%}) with the same "
                    f"input as a {leak.inside} row, such as {leak.first[0]}{hint}"
                )
        for split, count in self.repeats.items():
            if count:
                yield f"{split}: {counted(count, 'duplicate')} of earlier rows ({count / sizes[split]:.1%})"
        for split, count in self.conflicts.items():
            if count:
                yield f"{split}: {counted(count, 'row')} with the same input as another row but a different answer"

    def _leak(self, of: str, inside: str) -> Leak:
        other_inputs = self._inputs[inside]
        leaking = np.flatnonzero(np.isin(self._inputs[of], other_inputs))
        pairs = ((at, np.flatnonzero(other_inputs == self._inputs[of][at])[0]) for at in leaking[:NUM_SHOWN])
        first = [f"{self._location(of, int(row))} = {self._location(inside, int(other))}" for row, other in pairs]
        return Leak(of, inside, len(leaking), first)


_RANK = {"train": 0, "dev": 1, "test": 2}


def _is_repeat(digests: Digests) -> Mask:
    """Marks all occurrences of each digest but the first."""
    mask = np.isin(digests, _more_than_once(digests))
    repeated = np.flatnonzero(mask)
    mask[repeated[np.unique(digests[repeated], return_index=True)[1]]] = False
    return mask


def _num_conflicts(digests: RowDigests) -> int:
    # Only rows whose inputs occur more than once can be in conflict: most rows need no further look.
    candidates = np.flatnonzero(np.isin(digests.inputs, _more_than_once(digests.inputs)))
    inputs, whole = digests.inputs[candidates], digests.whole[candidates]
    different, counts = np.unique(inputs[np.unique(whole, return_index=True)[1]], return_counts=True)
    return int(np.isin(inputs, different[counts > 1]).sum())


def _more_than_once(digests: Digests) -> Digests:
    """The digests that occur more than once, sorted."""
    in_order = np.sort(digests)
    return np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
