"""How long the examples of a split are, as a histogram that a `start` event can hold."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 30
MOST_LOOKED_AT = 1_000_000
"""Examples of a split that are counted, evenly spread; of a longer split the histogram is that of a sample."""


def length_histogram(lengths: NDArray[np.int32]) -> dict[str, list[Any]]:
    """`edges` in tokens, one more than `counts`; empty lists for an empty split. All bins but the last leave out their
    upper edge."""
    looked_at = np.asarray(lengths[:: -(-len(lengths) // MOST_LOOKED_AT) or 1])
    if not len(looked_at):
        return {"edges": [], "counts": []}
    shortest, longest = int(looked_at.min()), int(looked_at.max())
    width = max(1, -(-(longest + 1 - shortest) // NUM_BINS))
    edges = list(range(shortest, longest + 1 + width, width))
    counts, _ = np.histogram(looked_at, bins=edges)
    return {"edges": edges, "counts": counts.tolist()}
