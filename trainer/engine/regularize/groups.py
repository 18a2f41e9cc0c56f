"""Which parameters share a learning rate, a weight decay and a pull towards their pretrained values."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from shardtune.errors import ConfigError
from shardtune.recipe.sections.optim import OptimConfig
from shardtune.trainer.model.parts.layers import Parts, parts_of

LR_SCALE, L2_SP = "lr_scale", "l2_sp"
"""Keys of a group of an optimizer: the factor of its learning rate, and the weight of its penalty."""


class _Treatment(NamedTuple):
    weight_decay: float
    lr_scale: float
    l2_sp: float


def parameter_groups(model: nn.Module, optim: OptimConfig, *, l2_sp: float = 0.0) -> list[dict[str, Any]]:
    """The trained parameters as groups of an optimizer: with weight decay, and without it (biases, and all parameters
    of norms), of each factor of the learning rate; pretrained ones with l2_sp in its stead.

    By name and module, not by number of dimensions, because under ZeRO-3 a parameter's own shape is empty. Raises
    ConfigError if optim.layer_decay finds no layers.
    """
    decayed, kept = split_by_decay(model)
    if optim.layer_decay == 1 and not l2_sp:
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": optim.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]
    parts = parts_of(model)
    if optim.layer_decay < 1 and not parts.stacks:
        raise ConfigError(f"optim.layer_decay: {type(model).__name__} has no list of layers; remove the key")
    names = {parameter: name for name, parameter in model.named_parameters()}
    treated: dict[_Treatment, list[nn.Parameter]] = {}
    for parameters, weight_decay in ((decayed, optim.weight_decay), (kept, 0.0)):
        for parameter in parameters:
            treatment = _treatment(names[parameter], parts, optim, weight_decay, l2_sp)
            treated.setdefault(treatment, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": how.weight_decay, LR_SCALE: how.lr_scale, L2_SP: how.l2_sp}
        for how, parameters in treated.items()
    ]


def _treatment(name: str, parts: Parts, optim: OptimConfig, weight_decay: float, l2_sp: float) -> _Treatment:
    scale = optim.layer_decay ** parts.num_above(name)
    if l2_sp and name not in parts.new:
        return _Treatment(0.0, scale, l2_sp)
    return _Treatment(weight_decay, scale, 0.0)


def split_by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained parameters with weight decay, and those without: biases, and all parameters of norms."""
    decayed: dict[nn.Parameter, None] = {}
    kept: dict[nn.Parameter, None] = {}
    for module in model.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (kept if is_norm or name.endswith("bias") else decayed)[parameter] = None
    return list(decayed), list(kept)


def set_lr(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Sets the learning rate of a step: `lr`, or the part of it that a group has."""
    for group in groups:
        group["lr"] = lr * group.get(LR_SCALE, 1.0)


def is_held(optimizer: torch.optim.Optimizer) -> bool:
    """Whether some of the optimizer's parameters are pulled towards their pretrained values."""
    return any(group.get(L2_SP) for group in optimizer.param_groups)
