"""Rows that are there twice: how many there are within a split and between two, and which of them are dropped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.prepare.digests import Digests, Read

Mask = NDArray[np.bool_]
SHOWN = 3


@dataclass(frozen=True)
class Leak:
    """Rows of one split of which the model reads the same as of rows of another."""

    of: str
    inside: str
    rows: int
    """How many of `of` there are."""
    first: list[str]
    """The first few, each with a row of the other split."""


class Duplicates:
    """What is there twice in these splits.

    Two rows within a split are duplicates if both what the model reads and what it is to answer are the same. Between
    two splits, what it reads is enough.
    """

    def __init__(self, splits: Mapping[str, Read], place: Callable[[str, int], str]) -> None:
        """The digests of each split's rows; `place` says of a split's row where it is."""
        self._splits, self._place = splits, place
        self._read = {split: its.inputs for split, its in splits.items()}
        self._repeats = {split: _repeats(its.whole) for split, its in splits.items()}
        self.conflicts = {split: _num_conflicts(its) for split, its in splits.items()}
        """Rows of each split of which another row has the same inputs and another answer."""

    @property
    def repeats(self) -> dict[str, int]:
        """Rows of each split that are a duplicate of one before."""
        return {split: int(its.sum()) for split, its in self._repeats.items()}

    @cached_property
    def leaks(self) -> list[Leak]:
        """For each two splits, the rows of the later one that leak."""
        return [self._leak(of, inside) for inside, of in combinations(self._splits, 2)]

    def dropped(self, how: Literal["none", "train", "all"]) -> dict[str, Mask]:
        """Which rows data.deduplicate drops from each split; shape (rows,)."""
        masks = {split: np.zeros(len(its), dtype=bool) for split, its in self._read.items()}
        for split, mask in masks.items():
            if how == "all" or (how == "train" and split == "train"):
                mask |= self._repeats[split]
                # From train goes what is in dev or test, from dev what is in test.
                for other in [later for later in self._splits if _RANK[later] > _RANK[split]]:
                    mask |= np.isin(self._read[split], self._read[other])
        return masks

    def _leak(self, of: str, inside: str) -> Leak:
        theirs = self._read[inside]
        leaking = np.flatnonzero(np.isin(self._read[of], theirs))
        pairs = ((at, np.flatnonzero(theirs == self._read[of][at])[0]) for at in leaking[:SHOWN])
        first = [f"{self._place(of, int(one))} = {self._place(inside, int(other))}" for one, other in pairs]
        return Leak(of, inside, len(leaking), first)


_RANK = {"train": 0, "dev": 1, "test": 2}


def _repeats(its: Digests) -> Mask:
    """All but the first of each."""
    mask = np.isin(its, _more_than_once(its))
    some = np.flatnonzero(mask)
    mask[some[np.unique(its[some], return_index=True)[1]]] = False
    return mask


def _num_conflicts(its: Read) -> int:
    # A row in conflict has inputs that are there more than once: most rows need no further look.
    some = np.flatnonzero(np.isin(its.inputs, _more_than_once(its.inputs)))
    read, whole = its.inputs[some], its.whole[some]
    inputs, counts = np.unique(read[np.unique(whole, return_index=True)[1]], return_counts=True)
    return int(np.isin(read, inputs[counts > 1]).sum())


def _more_than_once(its: Digests) -> Digests:
    """Those that are there more than once, sorted."""
    in_order = np.sort(its)
    return np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
