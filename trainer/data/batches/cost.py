"""What a forward and backward pass over rows costs, by their lengths: a term that is linear, and that of attention."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pairs:
    """Layers whose tokens attend to those of the same row in the same way."""

    each: float
    """The cost of a pair of tokens, in these layers together."""
    window: int | None = None
    """How many tokens each one sees at most."""
    is_causal: bool = False
    """Whether the pairs in which a token sees a later one cost nothing."""

    def of_row(self, length: float) -> float:
        """The cost of a row of this length."""
        seen = length if self.window is None else min(length, self.window)
        return self.each * seen * (length - seen / 2 if self.is_causal else length)


@dataclass(frozen=True)
class Cost:
    """The cost of a pass, in tokens of very short rows."""

    attention: tuple[Pairs, ...] = (Pairs(1 / 6144),)
    """By default that of a layer of hidden size 1024: s / 6h (Narayanan et al., 2021, section 5.1)."""

    def of_rows(self, longest: float, num_rows: int = 1) -> float:
        """The cost of `num_rows` rows of this length, in one pass."""
        longest = float(longest)  # numbers of NumPy are slow, one by one
        return num_rows * (longest + sum([pairs.of_row(longest) for pairs in self.attention]))

    def of_texts(self, lengths: NDArray[np.int32]) -> NDArray[np.float64]:
        """The cost of each text if it is attended to alone, in whichever row it is; shape (texts,)."""
        return np.array([self.of_rows(length) for length in lengths.tolist()])


TYPICAL = Cost()
"""Of a model that is not known."""
