"""Finds, for texts that come by, all texts of an index whose shingles are nearly the same.

The index is of the few rows of dev and test; the many training rows only pass by. A pair is near if the Jaccard
similarity of its shingles (those in both, divided by those in either) is at least 0.8. This is computed for every pair
that can reach it: MinHash, with which large collections are searched for their own duplicates (Lee et al., 2022), would
estimate it, and miss some pairs, at several times the cost for each row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.prepare.near_duplicates.shingles import ShingleSets

NEAR = (4, 5)
"""The least similarity of near duplicates, as a fraction."""
TEXTS_AT_ONCE = 64
FEWEST_WITH_TEMPLATE = 20
"""With fewer texts in an index, nothing is taken for a template."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Matches:
    """Pairs of near duplicates: a text that came by, and one in the index."""

    texts: Numbers
    """The number of the text among those that came by; in rising order, and of one text in that of `indexed`."""
    indexed: Numbers
    """The number of the other one in the index."""
    similarities: NDArray[np.float64]
    """Of each pair, from 0.8 to 1."""


class NearIndex:
    """Texts by their shingles.

    Shingles that are in more than half of the texts, such as those of a prompt that all rows begin with, are the
    template of the data: they count nowhere, so that rows are compared by what is their own.
    """

    def __init__(self, sets: ShingleSets) -> None:
        self._known, which, frequencies = np.unique(sets.values, return_inverse=True, return_counts=True)
        num_texts = len(sets.sizes)
        most = num_texts // 2 if num_texts >= FEWEST_WITH_TEMPLATE else num_texts
        self._is_template = frequencies > most
        self._texts = sets.texts[np.argsort(which, kind="stable")].astype(np.int32)
        """The texts that have the first of the known shingles, then those that have the second one, …"""
        self._starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(frequencies)])
        self._sizes = np.bincount(sets.texts[~self._is_template[which]], minlength=num_texts)

    def matches(self, sets: ShingleSets) -> Iterator[Matches]:
        """All pairs of one of these texts and one of the index that are near duplicates, those of some texts at a
        time: at worst every text is near every one of the index."""
        numbers = np.searchsorted(self._known, sets.values)
        numbers[numbers == len(self._known)] = 0
        is_known = self._known[numbers] == sets.values if len(self._known) else np.zeros(len(numbers), dtype=bool)
        is_template = is_known & (self._is_template[numbers] if len(self._known) else False)
        is_found = is_known & ~is_template
        texts, num_texts = sets.texts, len(sets.sizes)
        sizes = sets.sizes - np.bincount(texts[is_template], minlength=num_texts)
        found = np.bincount(texts[is_found], minlength=num_texts)
        # Most texts end here: they share too few shingles with all of the index together.
        promising = np.flatnonzero((sizes > 0) & (found * NEAR[1] >= sizes * NEAR[0]))
        numbers, ends = numbers[is_found], np.cumsum(found)
        for first in range(0, len(promising), TEXTS_AT_ONCE):
            parts = [
                self._matches_of(text, int(sizes[text]), numbers[ends[text] - found[text] : ends[text]])
                for text in promising[first : first + TEXTS_AT_ONCE].tolist()
            ]
            yield Matches(
                np.concatenate([part.texts for part in parts]),
                np.concatenate([part.indexed for part in parts]),
                np.concatenate([part.similarities for part in parts]),
            )

    def _matches_of(self, text: int, size: int, numbers: Numbers) -> Matches:
        """The matches of one text of `size` shingles, of which those with these numbers are in the index."""
        lengths = self._starts[numbers + 1] - self._starts[numbers]
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        indexed, shared = np.unique(
            self._texts[np.repeat(self._starts[numbers], lengths) + offsets], return_counts=True
        )
        either = size + self._sizes[indexed] - shared
        is_near = shared * NEAR[1] >= either * NEAR[0]
        indexed = indexed[is_near].astype(np.int64)
        return Matches(np.full(len(indexed), text), indexed, shared[is_near] / either[is_near])
