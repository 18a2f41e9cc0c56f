"""A frozen linear layer whose weights are held in few bits, and restored for each product."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shardtune.trainer.model.quantized.formats import FORMATS


class QuantizedLinear(nn.Linear):
    """A linear layer without gradients of its own; that of its inputs is exact for the restored weights.

    What it holds are buffers that are in no state_dict: checkpoints contain adapters only. Its `weight` is empty, and
    says the dtype and device, by which transformers and peft cast inputs and make adapters.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, has_bias: bool, kind: str, dtype: torch.dtype) -> None:
        """A layer on the meta device until `hold`. `kind` is a key of FORMATS."""
        super().__init__(num_inputs, num_outputs, bias=has_bias, device="meta", dtype=dtype)
        self.requires_grad_(False)
        self.kind = kind
        self._names: tuple[str, ...] = ()

    def hold(self, packed: Mapping[str, Tensor]) -> None:
        """Takes what FORMATS[kind].pack has returned in the place of its weight."""
        self._names = tuple(packed)
        (device,) = {tensor.device for tensor in packed.values()}
        dtype = self.weight.dtype
        del self.weight
        self.register_buffer("weight", torch.empty(0, dtype=dtype, device=device), persistent=False)
        for name, tensor in packed.items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def held(self) -> list[Tensor]:
        """What is kept of the weights."""
        return [self.get_buffer(name) for name in self._names]

    def restored(self, dtype: torch.dtype) -> Tensor:
        """The weights as a product gets them; shape (outputs, inputs)."""
        return FORMATS[self.kind].unpack(self.held, (self.out_features, self.in_features), dtype)

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            input, self.bias, self.kind, (self.out_features, self.in_features), *self.held
        )
        return product

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind}"


class _Product(torch.autograd.Function):
    """inputs @ weights.T, which keeps the packed weights for the backward pass, and restores them there once more."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, bias: Tensor | None, kind: str, shape: tuple[int, int], *packed: Tensor
    ) -> Tensor:
        ctx.kind, ctx.shape = kind, shape
        ctx.save_for_backward(*packed)
        return functional.linear(inputs, FORMATS[kind].unpack(packed, shape, inputs.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        packed: Sequence[Tensor] = ctx.saved_tensors
        nothing = [None] * (3 + len(packed))
        if not ctx.needs_input_grad[0]:
            return None, *nothing
        return grad @ FORMATS[ctx.kind].unpack(packed, ctx.shape, grad.dtype), *nothing


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantized layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def num_quantized(model: nn.Module) -> int:
    """Weights that are held in few bits, and are no parameters of the model."""
    return sum(layer.in_features * layer.out_features for layer in quantized_layers(model).values())


def held_bytes(model: nn.Module) -> int:
    """Bytes that the quantized weights take, with their scales."""
    return sum(tensor.nbytes for layer in quantized_layers(model).values() for tensor in layer.held)
