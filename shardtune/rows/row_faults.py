"""Collects everything that is wrong with the data, to report it at once, and which rows would have to be skipped."""

import re
from collections import Counter
from collections.abc import Hashable
from typing import Any

from shardtune.errors import DataError


class RowLocation(str):
    """Where something in a row is, in words (`file:line`), and which row that is: the fault affects no other row."""

    row: Hashable
    was_read: bool
    """Whether the row could be read; False if it was too malformed to become a row."""

    def __new__(cls, words: str, row: Hashable, *, was_read: bool = True) -> "RowLocation":
        place = super().__new__(cls, words)
        place.row = row
        place.was_read = was_read
        return place


class Faults:
    """Collects faults, to report all of them at once: the first `shown` in full, the rest as a count.

    A fault of a single row (an object with a `place`, or a RowLocation) can be resolved by skipping the row. Any other
    fault cannot.
    """

    def __init__(self, shown: int = 10) -> None:
        self._shown = shown
        self._num_faults = 0
        self._last: Hashable = None
        self.first: list[str] = []
        """The first faults, in full."""
        self.rows: set[Hashable] = set()
        """Keys of the bad rows among those that were read."""
        self.num_rows = 0
        """Number of bad rows, including those that could not be read."""
        self.reasons: Counter[str] = Counter()
        """Number of bad rows by their first fault, without the parts of the message that differ from row to row."""
        self.are_rows_alone = True
        """Whether all faults concern single rows."""

    def add(self, where: object, what: str) -> None:
        self._num_faults += 1
        if len(self.first) < self._shown:
            self.first.append(f"{where}: {what}")
        place: Any = getattr(where, "place", where)
        if not isinstance(place, RowLocation):
            self.are_rows_alone = False
        elif place.row != self._last and place.row not in self.rows:
            self._last = place.row
            self.num_rows += 1
            self.reasons[_reason(what)] += 1
            if place.was_read:
                self.rows.add(place.row)

    def update(self, other: "Faults") -> None:
        """Adds the faults of another collection, which concerns other rows."""
        self.first += other.first[: self._shown - len(self.first)]
        self._num_faults += other._num_faults
        self.rows |= other.rows
        self.num_rows += other.num_rows
        self.reasons += other.reasons
        self.are_rows_alone &= other.are_rows_alone

    def __bool__(self) -> bool:
        return self._num_faults > 0

    def __str__(self) -> str:
        more = self._num_faults - len(self.first)
        return "\n".join([*self.first, *([f"… and {more:,} more"] if more else [])])

    def raise_if_any(self) -> None:
        """Raises BadRowsError if there are faults."""
        if self:
            raise BadRowsError(self)


class BadRowsError(DataError):
    """The faults that were collected."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(str(faults))
        self.faults = faults

    def __reduce__(self) -> tuple[type["BadRowsError"], tuple[Faults]]:
        return BadRowsError, (self.faults,)


_DIFFERS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|(?<![\w-])\d[\d.,]*")


def _reason(what: str) -> str:
    """`token 3: expected a word, got 'x'; …` -> `token …: expected a word`."""
    return re.split(r", got |[;(]", _DIFFERS.sub("…", what), maxsplit=1)[0].strip()[:100]
