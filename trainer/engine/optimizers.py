"""The optimizers. A new one is a function and a line in OPTIMIZERS."""

from collections.abc import Callable

import torch
from torch import nn

from shardtune.recipe.schema import OptimConfig
from shardtune.trainer.engine.states.bf16_adamw import Bf16StatesAdamW


def adamw(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) with torch's fused step; no weight decay on norms and biases."""
    decayed, kept = split_by_decay(model)
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if optim.states == "bf16":
        return Bf16StatesAdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def split_by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained parameters with weight decay, and those without: biases, and all parameters of norms.

    By name and module, not by number of dimensions, because under ZeRO-3 a parameter's own shape is empty.
    """
    decayed: dict[nn.Parameter, None] = {}
    kept: dict[nn.Parameter, None] = {}
    for module in model.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (kept if is_norm or name.endswith("bias") else decayed)[parameter] = None
    return list(decayed), list(kept)


OPTIMIZERS: dict[str, Callable[[nn.Module, OptimConfig], torch.optim.Optimizer]] = {
    "adamw": adamw,
}
