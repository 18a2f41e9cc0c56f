"""Fewer points for a curve, without losing a spike or a gap."""

import numpy as np
from numpy.typing import NDArray
from tsdownsample import MinMaxDownsampler

Numbers = NDArray[np.float64]
FEWEST = 4


def downsample(x: Numbers, y: Numbers, points: int) -> tuple[Numbers, Numbers]:
    """About `points` of the points, in order: both ends, the lowest and the highest of each of as many equal parts of
    the x axis as there is room for, and a gap (nan) in each part that has a value that is not finite.

    x must not fall. y may have nan and infinities, which come back as nan.
    """
    is_finite = np.isfinite(y)
    if len(x) <= max(points, FEWEST):
        return x, np.where(is_finite, y, np.nan)
    gaps = _one_in_each_part(np.flatnonzero(~is_finite), len(y), points // 4)
    room = (max(points - len(gaps) - 2, FEWEST)) // 2 * 2
    finite = np.flatnonzero(is_finite)
    kept = finite
    if len(finite) > room:
        chosen = MinMaxDownsampler().downsample(  # type: ignore[no-untyped-call]
            np.ascontiguousarray(x[finite]), np.ascontiguousarray(y[finite]), n_out=room
        )
        kept = finite[np.concatenate([[0], chosen.astype(np.int64), [len(finite) - 1]])]
    numbers = np.unique(np.concatenate([kept, gaps]))
    return x[numbers], np.where(is_finite[numbers], y[numbers], np.nan)


def _one_in_each_part(numbers: NDArray[np.int64], length: int, num_parts: int) -> NDArray[np.int64]:
    """The first of these numbers below `length` in each of `num_parts` equal parts."""
    if not len(numbers):
        return numbers
    _, first = np.unique(numbers * max(num_parts, 1) // length, return_index=True)
    return numbers[first]
