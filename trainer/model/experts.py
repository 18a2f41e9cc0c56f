"""Experts that are modules of their own: every rank passes through all of them, in the same order.

The mixtures of experts of NLLB-MoE and Switch Transformers (transformers 5.23) call only the experts that have tokens
on this rank. DeepSpeed's ranks would then exchange gradients, and under ZeRO-3 weights, of different experts. The
experts of other models are one tensor in each layer, which every rank uses.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def call_all_experts(model: nn.Module) -> None:
    """Replaces the forward methods of the model's containers of experts: one without tokens is called with none."""
    for module in model.modules():
        if isinstance(module, nn.ModuleDict) and type(module).__name__.endswith("Experts"):
            module.forward = _calling_all(module.forward)


def _calling_all(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def calling_all(*args: Any, **kwargs: Any) -> Any:
        with _all_hit():
            return forward(*args, **kwargs)

    return calling_all


@contextmanager
def _all_hit() -> Iterator[None]:
    """Makes `torch.greater(tokens of each expert, 0)`, by which a container chooses the experts to call, all true."""
    torchs = torch.greater

    def greater(tokens: Tensor, other: Any) -> Tensor:
        return torch.ones_like(torchs(tokens, other))

    torch.greater = greater  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.greater = torchs
