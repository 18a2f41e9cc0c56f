"""To which lengths batches are padded: those of their longest rows, or multiples of a number where that is faster."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rounding:
    """Rounds lengths up to a multiple, but not beyond a limit; a length above the limit stays."""

    multiple: int = 1
    limit: int = 2**30

    @overload
    def up(self, length: int) -> int: ...
    @overload
    def up(self, length: NDArray[np.int32]) -> NDArray[np.int32]: ...
    def up(self, length: int | NDArray[np.int32]) -> int | NDArray[np.int32]:
        """The length, or each of the lengths, rounded up."""
        if isinstance(length, int):
            return max(length, min(-(-length // self.multiple) * self.multiple, self.limit))
        rounded = -(-length // self.multiple) * self.multiple
        return np.maximum(length, np.minimum(rounded, self.limit)).astype(np.int32)

    def down(self, length: int) -> int:
        """The largest length that is rounded up to no more than this one; at least 1."""
        return max(1, length // self.multiple * self.multiple)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Pads to rounded lengths in this thread while it lasts."""
        token = _rounding.set(self)
        try:
            yield
        finally:
            _rounding.reset(token)


EXACT = Rounding()
"""Rounds nothing."""
_rounding: ContextVar[Rounding] = ContextVar("rounding", default=EXACT)


def padded_length(longest: int) -> int:
    """The length to which rows are padded of which the longest has this length."""
    return _rounding.get().up(longest)
