"""A curve of any number of points in bounded memory: neighbours share a bucket, which keeps what a chart shows."""

import math
import operator
from array import array
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

MAX_BUCKETS = 1024
Axis = Literal["step", "time"]
Merge = Callable[[float, float], float]


class Bucket(NamedTuple):
    """Some points in a row."""

    step: float
    time: float
    """The lowest, which are the first point's unless the clock went back."""
    low: float
    high: float
    total: float
    num_points: int


class Curve:
    """A series of values by step and time. Buckets of equal numbers of points keep the lowest and the highest value,
    so that no spike vanishes, and the mean."""

    def __init__(self) -> None:
        self._per_bucket = 1
        self._full = tuple(array("d") for _ in Bucket._fields)
        """The full buckets, a column for each field of Bucket."""
        self._step = self._time = self._low = self._high = self._total = 0.0
        self._count = 0
        """The bucket that is being filled."""
        self.newest: float | None = None
        """The newest value; None if it is not finite, or there is none."""

    def __len__(self) -> int:
        return sum(bucket.num_points for bucket in self._buckets())

    def add(self, step: float, time: float, value: float | None) -> None:
        """Adds a point; only a finite one is drawn."""
        if value is None or not math.isfinite(value):
            self.newest = None
            return
        self.newest = value
        if not self._count:
            self._step, self._time, self._low, self._high = step, time, value, value
        elif value < self._low:
            self._low = value
        elif value > self._high:
            self._high = value
        self._total += value
        self._count += 1
        if self._count >= self._per_bucket:
            self._close_bucket()

    def points(self, axis: Axis = "step") -> list[tuple[float, float]]:
        """(x, value) of what the curve spans: of each bucket the lowest and the highest value."""
        spans = ((getattr(bucket, axis), bucket.low, bucket.high) for bucket in self._buckets())
        return [(x, y) for x, low, high in spans for y in ((low,) if low == high else (low, high))]

    def smoothed(self, weight: float, axis: Axis = "step") -> list[tuple[float, float]]:
        """(x, value) of the exponential moving average with this weight of the past, corrected for the bias of its
        start; a bucket counts as often as it has points."""
        average = norm = 0.0
        out = []
        for bucket in self._buckets():
            past = weight**bucket.num_points
            average = past * average + (1 - past) * bucket.total / bucket.num_points
            norm = past * norm + 1 - past
            out.append((getattr(bucket, axis), average / norm))
        return out

    def _buckets(self) -> Iterator[Bucket]:
        for step, time, low, high, total, count in zip(*self._full, strict=True):
            yield Bucket(step, time, low, high, total, int(count))
        if self._count:
            yield Bucket(self._step, self._time, self._low, self._high, self._total, self._count)

    def _close_bucket(self) -> None:
        newest = (self._step, self._time, self._low, self._high, self._total, self._count)
        for column, number in zip(self._full, newest, strict=True):
            column.append(number)
        self._total, self._count = 0.0, 0
        if len(self._full[0]) >= MAX_BUCKETS:
            self._merge_pairs()

    def _merge_pairs(self) -> None:
        """Halves the number of the buckets, which is even."""
        self._per_bucket *= 2
        merges: tuple[Merge, ...] = (min, min, min, max, operator.add, operator.add)
        self._full = tuple(
            array("d", map(merge, column[::2], column[1::2])) for merge, column in zip(merges, self._full, strict=True)
        )
