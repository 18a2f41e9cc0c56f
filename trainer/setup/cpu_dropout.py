"""Dropout that is fast on a CPU; a GPU has its own kernels.

PyTorch (2.13) draws a float for each number on a CPU, on one core. Here four numbers share a draw of 64 bits, the rest
is integer arithmetic that is vectorized, and it works on pieces that stay in a core's cache.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

BITS = 15
"""Bits drawn for each number: the probability is rounded to 1/32768, and kept numbers are scaled accordingly."""
PIECE = 2**18
"""Numbers that are processed at a time."""
WHOLE = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_torchs_dropout = functional.dropout


@contextmanager
def replaced_on_cpu(name: str, function: Callable[..., Tensor], device: torch.device) -> Iterator[None]:
    """Replaces a function of torch.nn.functional in this process while a CPU trains; no effect on a GPU.

    Modules and functions both look its name up at each call.
    """
    torchs = getattr(functional, name)
    if device.type == "cpu":
        setattr(functional, name, function)
    try:
        yield
    finally:
        setattr(functional, name, torchs)


def fast_dropout(device: torch.device) -> AbstractContextManager[None]:
    """Replaces torch.nn.functional.dropout by `dropout` while a CPU trains."""
    return replaced_on_cpu("dropout", dropout, device)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Computes torch.nn.functional.dropout, with other random numbers that follow from the same generator."""
    if not training or inplace or not 0 < p < 1 or input.device.type != "cpu" or input.dtype not in WHOLE:
        return _torchs_dropout(input, p, training, inplace)
    dropped: Tensor = _Dropout.apply(input, p)  # type: ignore[no-untyped-call]
    return dropped


class Draws:
    """Which numbers are dropped, in order; everything follows from one draw of torch's generator."""

    def __init__(self, p: float) -> None:
        self._limit = min(max(round(p * 2**BITS), 1), 2**BITS - 1)
        self.scale = 2**BITS / (2**BITS - self._limit)
        """The factor of kept numbers."""
        # SFC64 of NumPy (O'Neill's variant of Doty-Humphrey's): half the time of torch's Mersenne Twister.
        self._generator = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))

    def below(self, count: int) -> Tensor:
        """Returns a negative number where to drop, a non-negative one where to keep; int16, shape (count,)."""
        draws = torch.from_numpy(self._generator.random_raw(-(-count // 4)).view(np.int16)[:count])
        return draws.bitwise_and_(2**BITS - 1).sub_(self._limit)


class _Dropout(torch.autograd.Function):
    """Saves a byte for each number for the backward pass: all of its bits are set if the number is kept."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, p: float) -> Tensor:
        draws = Draws(p)
        ctx.scale = draws.scale
        flat, output = input.reshape(-1), torch.empty(input.shape, dtype=input.dtype)
        kept = torch.empty(input.numel(), dtype=torch.int8)
        for bits, out, piece in _pieces(kept, output, flat):
            bits.copy_(draws.below(len(bits)).bitwise_right_shift_(BITS).bitwise_not_())
            _keep(torch.mul(piece, ctx.scale, out=out), bits)
        ctx.save_for_backward(kept)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        flat, output = grad.reshape(-1), torch.empty(grad.shape, dtype=grad.dtype)
        for bits, out, piece in _pieces(kept, output, flat):
            _keep(torch.mul(piece, ctx.scale, out=out), bits)
        return output, None


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in pieces, flattened: views of the same numbers of each."""
    return zip(*(torch.split(tensor.view(-1), PIECE) for tensor in tensors), strict=True)


def _keep(numbers: Tensor, kept: Tensor) -> None:
    """Zeroes the numbers whose byte has no bits set."""
    whole = WHOLE[numbers.dtype]
    numbers.view(whole).bitwise_and_(kept.to(whole))
