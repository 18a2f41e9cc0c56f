"""Rows that are there twice: how many there are within a split and between two, and which of them are dropped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data.digests import Digests, digests
from trainer.data.source import Row

Splits = Mapping[str, Sequence[Row]]
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

    def __init__(self, splits: Splits, inputs: Sequence[str], answers: Sequence[str]) -> None:
        """`inputs` are the columns that the model reads, `answers` those that it is to answer with."""
        self._splits = splits
        self._read = {split: digests(rows, inputs) for split, rows in splits.items()}
        whole = {split: digests(rows, inputs, answers) for split, rows in splits.items()}
        self._repeats = {split: _repeats(its) for split, its in whole.items()}
        self.conflicts = {split: _num_conflicts(self._read[split], its) for split, its in whole.items()}
        """Rows of each split of which another row has the same inputs and another answer."""

    @property
    def repeats(self) -> dict[str, int]:
        """Rows of each split that are a duplicate of one before."""
        return {split: int(its.sum()) for split, its in self._repeats.items()}

    @property
    def leaks(self) -> list[Leak]:
        """For each two splits, the rows of the later one that leak."""
        return [self._leak(of, inside) for inside, of in combinations(self._splits, 2)]

    def dropped(self, how: Literal["none", "train", "all"]) -> dict[str, Mask]:
        """Which rows data.deduplicate drops from each split; shape (rows,)."""
        masks = {split: np.zeros(len(rows), dtype=bool) for split, rows in self._splits.items()}
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
        first = [f"{self._splits[of][one]} = {self._splits[inside][other]}" for one, other in pairs]
        return Leak(of, inside, len(leaking), first)


_RANK = {"train": 0, "dev": 1, "test": 2}


def _repeats(its: Digests) -> Mask:
    """All but the first of each."""
    mask = np.ones(len(its), dtype=bool)
    mask[np.unique(its, return_index=True)[1]] = False
    return mask


def _num_conflicts(read: Digests, whole: Digests) -> int:
    inputs, counts = np.unique(read[np.unique(whole, return_index=True)[1]], return_counts=True)
    return int(np.isin(read, inputs[counts > 1]).sum())
