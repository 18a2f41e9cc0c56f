"""What a forward and backward pass over rows costs, by their lengths: a term that is linear, and that of attention."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cost:
    """The cost of a pass, in tokens of very short rows."""

    attention: tuple[tuple[float, int | None], ...] = ((1 / 6144, None),)
    """For each kind of layers, the cost of a pair of tokens of a row, and how many tokens at most each one pairs with
    (None: all). By default that of a layer of hidden size 1024: s / 6h (Narayanan et al., 2021, section 5.1)."""

    def of_rows(self, longest: float, num_rows: int = 1) -> float:
        """The cost of `num_rows` rows of this length, in one pass."""
        longest = float(longest)
        pairs = sum(each * (longest if window is None else min(longest, window)) for each, window in self.attention)
        return num_rows * longest * (1 + pairs)

    def of_texts(self, lengths: NDArray[np.int32]) -> NDArray[np.float64]:
        """The cost of each text if it is attended to alone, in whichever row it is; shape (texts,)."""
        sizes = lengths.astype(np.float64)
        pairs = np.zeros_like(sizes)
        for each, window in self.attention:
            pairs += each * (sizes if window is None else np.minimum(sizes, window))
        costs: NDArray[np.float64] = sizes * (1 + pairs)
        return costs


TYPICAL = Cost()
"""Of a model that is not known."""
