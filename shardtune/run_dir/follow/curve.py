"""A curve of any number of points in bounded memory: neighbours share a bucket, which keeps what a chart shows."""

import math
from array import array
from typing import Literal

MAX_BUCKETS = 1024
Axis = Literal["step", "time"]


class Curve:
    """A series of values by step and time. Buckets of equal numbers of points keep the lowest and the highest value,
    so that no spike vanishes, and the mean."""

    def __init__(self) -> None:
        self._per_bucket = 1
        self._steps, self._times = array("d"), array("d")
        self._lows, self._highs, self._sums = array("d"), array("d"), array("d")
        self._counts = array("l")
        self.newest: float | None = None
        """The newest value; None if it is not finite, or there is none."""

    def __len__(self) -> int:
        return sum(self._counts)

    def add(self, step: float, time: float, value: float | None) -> None:
        """Adds a point; only a finite one is drawn."""
        if value is None or not math.isfinite(value):
            self.newest = None
            return
        self.newest = value
        if self._counts and self._counts[-1] < self._per_bucket:
            self._lows[-1], self._highs[-1] = min(self._lows[-1], value), max(self._highs[-1], value)
            self._sums[-1] += value
            self._counts[-1] += 1
            return
        if len(self._counts) == MAX_BUCKETS:
            self._halve()
        for numbers, number in zip(self._columns(), (step, time, value, value, value), strict=True):
            numbers.append(number)
        self._counts.append(1)

    def points(self, axis: Axis = "step") -> list[tuple[float, float]]:
        """(x, value) of what the curve spans: of each bucket the lowest and the highest value."""
        xs = self._steps if axis == "step" else self._times
        spans = zip(xs, self._lows, self._highs, strict=True)
        return [(x, y) for x, low, high in spans for y in ((low,) if low == high else (low, high))]

    def smoothed(self, weight: float, axis: Axis = "step") -> list[tuple[float, float]]:
        """(x, value) of the exponential moving average with this weight of the past, corrected for the bias of its
        start; a bucket counts as often as it has points."""
        xs = self._steps if axis == "step" else self._times
        average = norm = 0.0
        out = []
        for x, total, count in zip(xs, self._sums, self._counts, strict=True):
            past = weight**count
            average, norm = past * average + (1 - past) * total / count, past * norm + 1 - past
            out.append((x, average / norm))
        return out

    def _columns(self) -> tuple["array[float]", ...]:
        return self._steps, self._times, self._lows, self._highs, self._sums

    def _halve(self) -> None:
        """Merges the buckets in pairs. They are full, and of an even number."""
        self._per_bucket *= 2
        for numbers in (self._steps, self._times):
            del numbers[1::2]
        self._lows = array("d", map(min, self._lows[::2], self._lows[1::2]))
        self._highs = array("d", map(max, self._highs[::2], self._highs[1::2]))
        self._sums = array("d", map(float.__add__, self._sums[::2], self._sums[1::2]))
        self._counts = array("l", map(int.__add__, self._counts[::2], self._counts[1::2]))
