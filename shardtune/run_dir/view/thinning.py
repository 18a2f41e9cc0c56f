"""Fewer points for a chart: those that keep every spike, or means of parts. All values must be finite."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def thinned(x: Numbers, y: Numbers, limit: int) -> tuple[Numbers, Numbers]:
    """At most `limit` of the points, in order: both ends, and the lowest and the highest of each part between them.

    Every n-th point alone would lose the spikes. `x` ascends.
    """
    if len(x) <= limit:
        return x, y
    from tsdownsample import MinMaxDownsampler

    num_inner = max(2, (limit - 2) // 2 * 2)
    downsampler = MinMaxDownsampler()  # type: ignore[no-untyped-call]
    inner = 1 + downsampler.downsample(np.ascontiguousarray(y[1:-1]), n_out=num_inner).astype(np.int64)
    kept = np.unique(np.concatenate(([0], inner, [len(x) - 1])))
    return x[kept], y[kept]


def means(x: Numbers, y: Numbers, limit: int) -> tuple[Numbers, Numbers]:
    """(last x, mean y) of at most `limit` parts of about equal numbers of points; the points themselves if so few."""
    if len(x) <= limit:
        return x, y
    begins = np.arange(limit) * len(x) // limit
    ends = np.append(begins[1:], len(x))
    return x[ends - 1], np.add.reduceat(y, begins) / (ends - begins)
