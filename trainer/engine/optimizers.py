"""The optimizers. A new one is a function and a line in OPTIMIZERS."""

from collections.abc import Callable

import torch
from torch import nn

from shardtune.recipe.sections.optim import OptimConfig
from shardtune.trainer.engine.regularize.groups import parameter_groups
from shardtune.trainer.engine.states.bf16_adamw import Bf16StatesAdamW


def adamw(model: nn.Module, optim: OptimConfig, *, l2_sp: float = 0.0) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) with torch's fused step; no weight decay on norms and biases.

    With l2_sp, pretrained weights have no weight decay, and are marked for the penalty (regularize/penalty.py).
    """
    groups = parameter_groups(model, optim, l2_sp=l2_sp)
    if optim.states == "bf16":
        return Bf16StatesAdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": adamw,
}
