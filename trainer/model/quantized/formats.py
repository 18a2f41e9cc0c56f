"""How a weight matrix is held in few bits: what is kept of it, and what a product gets back.

What is kept are whole numbers only, scales in fp32 among them by their bits: a cast of the whole model to another
precision does not touch them. Only this module imports bitsandbytes.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

BLOCK = 64
"""Weights that share a scale in NF4, as in QLoRA (Dettmers et al., 2023)."""
SCALES_BLOCK = 256
"""Scales that share a scale, where they are quantized too (double quantization, section 3)."""
STEPS = 127
"""Steps of int8 on each side of 0."""


class Format(Protocol):
    """A way to hold a matrix."""

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """What is kept of a matrix of floats, by name."""

    def unpack(self, packed: Sequence[Tensor], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """The matrix of this shape from the values of `pack`, in their order."""

    def empty(self, shape: tuple[int, int]) -> dict[str, Tensor]:
        """What `pack` returns of a matrix of this shape, on the meta device."""


class Nf4:
    """4 bits: the number of one of 16 quantiles of a normal distribution; a scale in 8 bits for each BLOCK weights, and
    one in fp32 for each SCALES_BLOCK of these."""

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        packed, state = _bitsandbytes().quantize_4bit(
            weight.contiguous(), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        ends = torch.cat((state.state2.absmax, state.offset.float().view(1)))
        return {
            "packed": packed.view(-1),
            "scales": state.absmax,
            "scales_of_scales": ends.view(torch.int32),
            "scale_values": state.state2.code.view(torch.int32),  # the 256 values of an 8-bit scale
        }

    def unpack(self, packed: Sequence[Tensor], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        values, scales, *bits = packed
        ends, scale_values = (tensor.view(torch.float32) for tensor in bits)
        operators = torch.ops.bitsandbytes
        largest = operators.dequantize_blockwise.default(scales, ends[:-1], scale_values, SCALES_BLOCK, torch.float32)
        rows, columns = shape
        # A row of odd length has no kernel on CPUs, where bitsandbytes (0.50) would compile one.
        whole = shape if columns % 2 == 0 else (1, 2 * values.numel())
        matrix: Tensor = operators.dequantize_4bit.default(
            values.view(-1, 1), largest + ends[-1], BLOCK, "nf4", whole, dtype
        )
        return matrix if whole == shape else matrix.view(-1)[: rows * columns].view(shape)

    def empty(self, shape: tuple[int, int]) -> dict[str, Tensor]:
        blocks = math.ceil(shape[0] * shape[1] / BLOCK)
        return {
            "packed": torch.empty(math.ceil(shape[0] * shape[1] / 2), dtype=torch.uint8, device="meta"),
            "scales": torch.empty(blocks, dtype=torch.uint8, device="meta"),
            "scales_of_scales": torch.empty(math.ceil(blocks / SCALES_BLOCK) + 1, dtype=torch.int32, device="meta"),
            "scale_values": torch.empty(256, dtype=torch.int32, device="meta"),
        }


class Int8:
    """8 bits, and a scale in fp32 for each row: the format of LLM.int8 (Dettmers et al., 2022) without its outliers.

    Inputs are not quantized. In LLM.int8 they are, and which of their columns count as outliers depends on all rows of
    a micro-batch, so that what is learned would depend on how rows are laid out.
    """

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        weight = weight.float()
        largest = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        packed = (weight * (STEPS / largest)[:, None]).round().clamp(-STEPS, STEPS).to(torch.int8)
        return {"packed": packed, "scales": (largest / STEPS).view(torch.int32)}

    def unpack(self, packed: Sequence[Tensor], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        values, bits = packed
        return (values * bits.view(torch.float32)[:, None]).to(dtype)

    def empty(self, shape: tuple[int, int]) -> dict[str, Tensor]:
        return {
            "packed": torch.empty(shape, dtype=torch.int8, device="meta"),
            "scales": torch.empty(shape[0], dtype=torch.int32, device="meta"),
        }


FORMATS: Mapping[str, Format] = {"nf4": Nf4(), "int8": Int8()}
"""model.lora.quantize_base -> the format."""


def rounded(weight: Tensor, kind: str, *, is_transposed: bool = False) -> Tensor:
    """A weight matrix as products get it after it was held in this format, in fp32."""
    matrix = weight.T.contiguous() if is_transposed else weight
    packed = FORMATS[kind].pack(matrix)
    back = FORMATS[kind].unpack([*packed.values()], (matrix.shape[0], matrix.shape[1]), torch.float32)
    return back.T.contiguous() if is_transposed else back


@lru_cache
def _bitsandbytes() -> Any:
    # On processors with AVX512-BF16 it says that a kernel for generation, which is not used, is not installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from bitsandbytes import functional

    return functional
