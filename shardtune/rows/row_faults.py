"""Collects everything that is wrong with the data, to report it at once, and which rows would have to be skipped."""

import re
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shardtune.errors import DataError

NUM_PLACES = 3
"""More faults than these that have the same reason are reported together, with the places of the first ones."""


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


class _Fault(NamedTuple):
    """One fault, for a person to read."""

    number: int
    """Its number among all faults, by which the lines of a report are sorted."""
    where: str
    what: str


class _Line(NamedTuple):
    """A line of the report."""

    number: int
    """The number of the first fault that it reports."""
    text: str
    num_faults: int


@dataclass
class _Alike:
    """Faults that may be reported in one line."""

    num_faults: int = 0
    num_rows: int = 0
    """In how many rows they are."""
    first: list[_Fault] = field(default_factory=list)
    """At most NUM_PLACES of them."""
    last_row: Hashable = None

    def add(self, fault: _Fault, row: Hashable) -> None:
        """Adds a fault; `row` is None if it concerns more than a row."""
        self.num_faults += 1
        if len(self.first) < NUM_PLACES:
            self.first.append(fault)
        if row is not None and row != self.last_row:
            self.last_row = row
            self.num_rows += 1

    def update(self, other: "_Alike", first_number: int) -> None:
        """Adds faults of other rows, whose numbers begin at `first_number`."""
        moved = (fault._replace(number=first_number + fault.number) for fault in other.first)
        self.first = [*self.first, *moved][:NUM_PLACES]
        self.num_faults += other.num_faults
        self.num_rows += other.num_rows

    def line(self, like: str = "") -> _Line:
        """All of them in one line: the first, how many more `like` it there are, and where the next ones are."""
        first, *others = self.first
        text = f"{first.where}: {first.what}"
        if num_more := self.num_faults - 1:
            noun = f" row{'s' * (num_more > 1)}" if self.num_rows == self.num_faults else ""
            places = [*(fault.where for fault in others), *(["…"] if num_more > len(others) else [])]
            text += f" (and {num_more:,} more{noun}{like}: {', '.join(places)})"
        return _Line(first.number, text, self.num_faults)


@dataclass
class _Reason:
    """The faults that have the same reason, in different words or not."""

    faults: _Alike = field(default_factory=_Alike)
    by_text: dict[str, _Alike] = field(default_factory=dict)
    """Those of the first texts, at most one more than NUM_PLACES."""

    def add(self, fault: _Fault, row: Hashable) -> None:
        self.faults.add(fault, row)
        if fault.what in self.by_text or len(self.by_text) <= NUM_PLACES:
            self.by_text.setdefault(fault.what, _Alike()).add(fault, row)

    def update(self, other: "_Reason", first_number: int) -> None:
        self.faults.update(other.faults, first_number)
        for text, alike in other.by_text.items():
            if text in self.by_text or len(self.by_text) <= NUM_PLACES:
                self.by_text.setdefault(text, _Alike()).update(alike, first_number)

    def lines(self) -> Iterator[_Line]:
        """A line for each fault if there are few, else for each of a few texts, else for all of them."""
        if self.faults.num_faults <= NUM_PLACES:
            yield from (_Line(fault.number, f"{fault.where}: {fault.what}", 1) for fault in self.faults.first)
        elif len(self.by_text) <= NUM_PLACES:
            yield from (alike.line() for alike in self.by_text.values())
        else:
            yield self.faults.line(" like it")


class Faults:
    """Collects faults, to report all of them at once: at most `shown` lines, the rest as a count.

    Many faults with the same reason share a line. A fault of a single row (an object with a `place`, or a RowLocation)
    can be resolved by skipping the row. Any other fault cannot.
    """

    def __init__(self, shown: int = 10) -> None:
        self._shown = shown
        self._num_faults = 0
        self._last: Hashable = None
        self._by_reason: dict[str, _Reason] = {}
        """Those of the first reasons, as many as there may be lines."""
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
        place: Any = getattr(where, "place", where)
        is_row = isinstance(place, RowLocation)
        reason = _reason(what)
        if reason in self._by_reason or len(self._by_reason) < self._shown:
            words = str(where)[:]  # without the key of the row, if it is a RowLocation
            fault = _Fault(self._num_faults, words, what)
            self._by_reason.setdefault(reason, _Reason()).add(fault, place.row if is_row else None)
        self._num_faults += 1
        if len(self.first) < self._shown:
            self.first.append(f"{where}: {what}")
        if not is_row:
            self.are_rows_alone = False
        elif place.row != self._last and place.row not in self.rows:
            self._last = place.row
            self.num_rows += 1
            self.reasons[reason] += 1
            if place.was_read:
                self.rows.add(place.row)

    def update(self, other: "Faults") -> None:
        """Adds the faults of another collection, which concerns other rows."""
        for reason, faults in other._by_reason.items():
            if reason in self._by_reason or len(self._by_reason) < self._shown:
                self._by_reason.setdefault(reason, _Reason()).update(faults, self._num_faults)
        self.first += other.first[: self._shown - len(self.first)]
        self._num_faults += other._num_faults
        self.rows |= other.rows
        self.num_rows += other.num_rows
        self.reasons += other.reasons
        self.are_rows_alone &= other.are_rows_alone

    def __bool__(self) -> bool:
        return self._num_faults > 0

    def __str__(self) -> str:
        lines = sorted(line for faults in self._by_reason.values() for line in faults.lines())[: self._shown]
        num_more = self._num_faults - sum(line.num_faults for line in lines)
        return "\n".join([*(line.text for line in lines), *([f"… and {num_more:,} more"] if num_more else [])])

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


FAULT_CLASSES: tuple[type, ...] = (Faults, _Reason, _Alike, _Fault)
"""The classes of a collection, for who stores it."""

_DIFFERS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|(?<![\w-])\d[\d.,]*")


def _reason(what: str) -> str:
    """`token 3: expected a word, got 'x'; …` -> `token …: expected a word`."""
    return re.split(r", got |[;(]", _DIFFERS.sub("…", what), maxsplit=1)[0].strip()[:100]
