"""Dropout as CPUs do it quickly; a GPU has kernels of its own.

PyTorch (2.13) draws a float for each number on a CPU, on one core. Here four numbers share a draw of 64 bits, all else
is whole-number arithmetic that the vector units take, and it is done a piece at a time that stays in a core's cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

BITS = 15
"""Of each number's draw: a probability is taken to 1/32768, and what is kept is scaled by what that leaves."""
PIECE = 2**18
"""Numbers that are done at a time."""
WHOLE = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_torchs_dropout = functional.dropout


@contextmanager
def fast_dropout(device: torch.device) -> Iterator[None]:
    """Replaces torch.nn.functional.dropout by `dropout` in this process while a CPU trains; no effect on a GPU.

    Modules and functions both look this name up at each call.
    """
    torchs = functional.dropout
    if device.type == "cpu":
        functional.dropout = dropout
    try:
        yield
    finally:
        functional.dropout = torchs


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """What torch.nn.functional.dropout is, of other draws that follow from the same generator."""
    if not training or inplace or not 0 < p < 1 or input.device.type != "cpu" or input.dtype not in WHOLE:
        return _torchs_dropout(input, p, training, inplace)
    dropped: Tensor = _Dropout.apply(input, p)  # type: ignore[no-untyped-call]
    return dropped


class Draws:
    """Which numbers are dropped, one after another; all of it follows from one draw of torch's generator."""

    def __init__(self, p: float) -> None:
        self._limit = min(max(round(p * 2**BITS), 1), 2**BITS - 1)
        self.scale = 2**BITS / (2**BITS - self._limit)
        """What the kept ones are multiplied by."""
        # SFC64 of NumPy (O'Neill's variant of Doty-Humphrey's): half the time of torch's Mersenne Twister.
        self._generator = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))

    def below(self, count: int) -> Tensor:
        """A number below zero for what is dropped, none for what is kept; int16, shape (count,)."""
        draws = torch.from_numpy(self._generator.random_raw(-(-count // 4)).view(np.int16)[:count])
        return draws.bitwise_and_(2**BITS - 1).sub_(self._limit)


class _Dropout(torch.autograd.Function):
    """Keeps a byte of each number for the way back: all of its bits are set if it is kept."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, p: float) -> Tensor:
        draws = Draws(p)
        ctx.scale = draws.scale
        flat, output = input.reshape(-1), torch.empty(input.shape, dtype=input.dtype)
        kept = torch.empty(input.numel(), dtype=torch.int8)
        for its, out, piece in _pieces(kept, output, flat):
            its.copy_(draws.below(len(its)).bitwise_right_shift_(BITS).bitwise_not_())
            _keep(torch.mul(piece, ctx.scale, out=out), its)
        ctx.save_for_backward(kept)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        flat, output = grad.reshape(-1), torch.empty(grad.shape, dtype=grad.dtype)
        for its, out, piece in _pieces(kept, output, flat):
            _keep(torch.mul(piece, ctx.scale, out=out), its)
        return output, None


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same numbers of each tensor, some at a time; views, flattened."""
    return zip(*(torch.split(its.view(-1), PIECE) for its in tensors), strict=True)


def _keep(numbers: Tensor, kept: Tensor) -> None:
    """Makes zeros of the numbers whose byte has no bits set."""
    whole = WHOLE[numbers.dtype]
    numbers.view(whole).bitwise_and_(kept.to(whole))
