"""The search for near duplicates between splits: two passes over the rows on disk, shared by all processes.

The first makes the shingles of the rows of dev and test, which all processes then keep in memory. In the second the
rows of the other splits are compared with them, some at a time. So memory depends on dev and test alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.prepare.digests import Digests, input_values
from shardtune.trainer.data.prepare.near_duplicates.index import Matches, NearIndex
from shardtune.trainer.data.prepare.near_duplicates.shingles import ShingleSets, shingle_sets, text_of
from shardtune.trainer.data.prepare.row_pieces import LocatedRows, Pieces
from shardtune.trainer.data.prepare.sources import SPLITS
from shardtune.trainer.data.prepare.work_queue import WorkQueue

PAIRS_AT_ONCE = 1_000_000
"""Of more pairs only the nearest ones are kept on."""
LATER = ("dev", "test")
"""The splits that rows of earlier ones are compared with."""

Numbers = NDArray[np.int64]


@dataclass
class Nearest:
    """For rows of one split, the nearest row of an earlier one among its near duplicates with another input."""

    indexed: Numbers
    """The rows, by their numbers in the index; each once, in rising order."""
    others: Numbers
    """Of each, the number of the nearest row among all rows; of several, the first."""
    similarities: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.indexed)

    @classmethod
    def none(cls) -> "Nearest":
        """No rows."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))

    @classmethod
    def among(cls, pairs: "Sequence[Nearest]") -> "Nearest":
        """The nearest ones among these pairs, of which one row may have several."""
        indexed = np.concatenate([part.indexed for part in pairs])
        others = np.concatenate([part.others for part in pairs])
        similarities = np.concatenate([part.similarities for part in pairs])
        order = np.lexsort((others, -similarities, indexed))
        indexed, first = np.unique(indexed[order], return_index=True)
        return cls(indexed, others[order][first], similarities[order][first])


@dataclass
class _Found:
    """What was found in a piece: by split of its rows, the near ones in the index, and which of its rows are near."""

    nearest: dict[str, Nearest] = field(default_factory=dict)
    near_rows: dict[str, Numbers] = field(default_factory=dict)
    """By split, the numbers of its rows that equal, or nearly equal, a row of a later split."""


@dataclass
class _Indexed:
    """Rows of dev and test in a piece: their numbers among all rows, and their shingles."""

    rows: Numbers
    sets: ShingleSets


FOUND_CLASSES = (_Found, Nearest)
INDEXED_CLASSES = (_Indexed, ShingleSets)


@dataclass(frozen=True)
class NearRows:
    """The near duplicates between the splits."""

    pairs: Mapping[tuple[str, str], list[tuple[int, int, float]]]
    """By (split, earlier split): the rows of the former with a near duplicate in the latter, besides those with the
    same input: the numbers of both among all rows, and their similarity."""
    near_rows: Mapping[str, Numbers]
    """By split, the numbers of the rows that equal, or nearly equal, a row of a later split."""


def find_near_rows(
    pieces: Pieces, splits: NDArray[np.uint8], inputs: Sequence[str], digests: Digests, work: WorkQueue
) -> NearRows:
    """All near duplicates between the splits of these rows.

    `splits` has the number of the split of every row, `digests` that of its input; `inputs` are the columns that the
    model reads.
    """
    search = _Search(pieces, splits, inputs, digests)
    num_pieces = len(pieces.pieces)
    search.open_index(work.map("near-index", num_pieces, search.index_piece, INDEXED_CLASSES))
    return search.together(work.map("near-find", num_pieces, search.find_in_piece, FOUND_CLASSES))


class _Search:
    def __init__(self, pieces: Pieces, splits: NDArray[np.uint8], inputs: Sequence[str], digests: Digests) -> None:
        self._pieces, self._splits, self._inputs, self._digests = pieces, splits, inputs, digests
        self._rows: Numbers = np.empty(0, dtype=np.int64)
        self._index = NearIndex(ShingleSets.joined([]))

    def index_piece(self, number: int) -> _Indexed:
        """The shingles of the rows of dev and test in a piece."""
        rows, sets = [np.empty(0, dtype=np.int64)], []
        for split in LATER:
            for numbers, chunk in self._chunks(number, split):
                rows.append(numbers)
                sets.append(chunk)
        return _Indexed(np.concatenate(rows), ShingleSets.joined(sets))

    def open_index(self, parts: Sequence[_Indexed]) -> None:
        """Makes the index of what all pieces have."""
        self._rows = np.concatenate([self._rows, *(part.rows for part in parts)])
        self._index = NearIndex(ShingleSets.joined([part.sets for part in parts]))

    def find_in_piece(self, number: int) -> _Found:
        """Compares the rows of a piece with those of later splits."""
        found = _Found()
        for split in SPLITS[:-1]:
            near, nearest = [np.empty(0, dtype=np.int64)], [Nearest.none()]
            for numbers, matches in self._matches(number, split):
                others, rows = numbers[matches.texts], self._rows[matches.indexed]
                is_later = self._splits[rows] > SPLITS.index(split)
                near.append(np.unique(others[is_later]))
                is_other = is_later & (self._digests[rows] != self._digests[others])
                nearest.append(Nearest(matches.indexed[is_other], others[is_other], matches.similarities[is_other]))
                if sum(map(len, nearest)) > PAIRS_AT_ONCE:
                    nearest = [Nearest.among(nearest)]
            found.near_rows[split] = np.concatenate(near)
            found.nearest[split] = Nearest.among(nearest)
        return found

    def together(self, parts: Sequence[_Found]) -> NearRows:
        """What was found in all pieces."""
        near_rows = {split: np.concatenate([part.near_rows[split] for part in parts]) for split in SPLITS[:-1]}
        return NearRows({pair: self._pairs(*pair, parts) for pair in _later_and_earlier()}, near_rows)

    def _pairs(self, of: str, inside: str, parts: Sequence[_Found]) -> list[tuple[int, int, float]]:
        nearest = Nearest.among([part.nearest[inside] for part in parts])
        same = self._digests[self._splits == SPLITS.index(inside)]
        rows = self._rows[nearest.indexed]
        is_counted = (self._splits[rows] == SPLITS.index(of)) & ~np.isin(self._digests[rows], same)
        pairs = zip(
            rows[is_counted].tolist(),
            nearest.others[is_counted].tolist(),
            nearest.similarities[is_counted].tolist(),
            strict=True,
        )
        return sorted(pairs)

    def _matches(self, number: int, split: str) -> Iterator[tuple[Numbers, Matches]]:
        """The near duplicates of the rows of a split in a piece, some at a time, with the numbers of the rows among all
        rows that their texts stand for."""
        for numbers, sets in self._chunks(number, split):
            for matches in self._index.matches(sets):
                yield numbers, matches

    def _chunks(self, number: int, split: str) -> Iterator[tuple[Numbers, ShingleSets]]:
        """The rows of a split in a piece, some at a time: their numbers among all rows, and their shingles."""
        start = int(self._pieces.starts[number])
        for located in self._pieces.chunks_of(number, self._splits, SPLITS.index(split)):
            yield start + located.numbers, self._sets(located)

    def _sets(self, located: LocatedRows) -> ShingleSets:
        values: list[Any] = [input_values(row, self._inputs) for row in located.rows]
        return shingle_sets([text_of(value) for value in values])


def _later_and_earlier() -> list[tuple[str, str]]:
    return [(of, inside) for inside, of in combinations(SPLITS, 2)]
