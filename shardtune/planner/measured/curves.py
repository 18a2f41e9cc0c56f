"""Seconds between the sizes that were measured: straight lines between logarithms."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
"""A size, and the seconds for it."""


@dataclass(frozen=True)
class Curve:
    """Seconds by size. Below the least size as for that one, because calls take what they take; beyond the largest in
    proportion."""

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        if not self.points or any(size <= 0 or seconds <= 0 for size, seconds in self.points):
            raise ValueError("a curve needs points, whose sizes and seconds are above 0")
        if any(one >= other for (one, _), (other, _) in pairwise(self.points)):
            raise ValueError("the sizes of a curve rise")

    def at(self, size: float) -> float:
        """Seconds for this size; 0 for nothing."""
        if size <= 0:
            return 0.0
        first, last = self.points[0], self.points[-1]
        if size <= first[0]:
            return first[1]
        if size >= last[0]:
            return last[1] * size / last[0]
        at = bisect_left(self.points, (size, 0.0))
        (below, faster), (above, slower) = self.points[at - 1], self.points[at]
        share = math.log(size / below) / math.log(above / below)
        return math.exp((1 - share) * math.log(faster) + share * math.log(slower))


@dataclass(frozen=True)
class Products:
    """Seconds of a matrix product (rows, inner) x (inner, columns), by its three sizes."""

    rows: tuple[float, ...]
    inner: tuple[float, ...]
    columns: tuple[float, ...]
    seconds: tuple[float, ...]
    """Of each combination; the columns change fastest, the rows slowest."""

    def __post_init__(self) -> None:
        sizes = (self.rows, self.inner, self.columns)
        if any(not each or any(one >= other for one, other in pairwise(each)) or each[0] <= 0 for each in sizes):
            raise ValueError("the sizes of products rise from above 0")
        if len(self.seconds) != math.prod(map(len, sizes)) or min(self.seconds) <= 0:
            raise ValueError("products need seconds above 0 for each combination of sizes")

    def at(self, rows: float, inner: float, columns: float) -> float:
        """Seconds of a product: the rate is interpolated, so that it stays as it is beyond the largest sizes. What is
        smaller than the least size takes as long as that."""
        places = [
            _place(max(size, each[0]), each)
            for size, each in ((rows, self.rows), (inner, self.inner), (columns, self.columns))
        ]
        rate = 0.0
        for number in range(8):
            corner = [at + (number >> bit & 1) for bit, (at, _) in enumerate(places)]
            weight = math.prod(share if number >> bit & 1 else 1 - share for bit, (_, share) in enumerate(places))
            if weight:
                rate += weight * math.log(self._rate(*corner))
        operations = max(rows, self.rows[0]) * max(inner, self.inner[0]) * max(columns, self.columns[0])
        return operations / math.exp(rate)

    def _rate(self, row: int, inner: int, column: int) -> float:
        """Multiplications a second of a measured product, by the places of its sizes."""
        at = (row * len(self.inner) + inner) * len(self.columns) + column
        return self.rows[row] * self.inner[inner] * self.columns[column] / self.seconds[at]

    @property
    def best_rate(self) -> float:
        """Operations a second of the fastest product, a multiplication and an addition counted as two."""
        places = (
            (row, inner, column)
            for row in range(len(self.rows))
            for inner in range(len(self.inner))
            for column in range(len(self.columns))
        )
        return 2 * max(self._rate(*place) for place in places)


def _place(size: float, sizes: Sequence[float]) -> tuple[int, float]:
    """Where a size lies: the number of the size below it, and how far it is from there to the next; 0 to 1."""
    if size >= sizes[-1]:
        return len(sizes) - 1, 0.0
    at = bisect_left(sizes, size)
    if sizes[at] == size:
        return at, 0.0
    return at - 1, math.log(size / sizes[at - 1]) / math.log(sizes[at] / sizes[at - 1])
