"""Holds weights near their pretrained values, where a rank updates its part of them: L2-SP and EWC.

Each rank keeps the pretrained values w0 of the elements that it updates, and for EWC their Fisher information F, and
acts right before the optimizer's step, when gradients are summed, clipped and in fp32 in every engine and ZeRO stage:

- L2-SP (Li et al., 2018) as decay towards w0, decoupled from the gradient as AdamW's weight decay is (Loshchilov and
  Hutter, 2019; for penalties of this kind Chen et al., 2020, RecAdam): w <- w - lr * l2_sp * (w - w0).
- EWC (Kirkpatrick et al., 2017) by the gradient of its penalty, weight * F * (w - w0), added to that of the loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine import zero_layout as zero
from shardtune.trainer.engine.regularize.groups import L2_SP
from shardtune.trainer.engine.snapshot import Read, SavedTensors

CHUNK = 2**22
"""Elements at a time, so that what is needed besides w0 and F is a few tensors of this size."""


@dataclass(frozen=True)
class Fisher:
    """A diagonal of the Fisher information of the pretrained model, in files."""

    weight: float
    """regularize.ewc.weight."""
    tensors: SavedTensors
    num_elements: Mapping[str, int]
    """Number of elements of each parameter in the files. What lies beyond (rows of added tokens), and parameters that
    are not there, are not held."""


class Penalty:
    """The penalty of the weights that this rank updates; acts in each step of their optimizers."""

    def __init__(
        self, homes: Sequence[zero.Home], ranks: Ranks, *, dtype: torch.dtype, fisher: Fisher | None = None
    ) -> None:
        """Collective: takes the present weights for the pretrained ones; dtype is the one that they were loaded in."""
        self._weight = 0.0 if fisher is None else fisher.weight
        self._w0: dict[Tensor, Tensor] = {}
        self._fisher: dict[Tensor, Tensor] = {}
        self._share: dict[Tensor, float] = {}
        """The part of a tensor's penalty that this rank counts, so that the ranks' parts add up."""
        for home in homes:
            is_held = fisher is not None or any(group.get(L2_SP) for group in _groups_of(home.optimizer, home.owner))
            if is_held and home.owner not in self._w0:
                self._w0[home.owner] = home.owner.detach().to(dtype, copy=True)
                self._share[home.owner] = 1 / ranks.world_size if home.replicated else 1.0
        if fisher is not None:
            self._read(fisher, homes, ranks)
        self._value: Tensor | None = None
        for optimizer in {id(home.optimizer): home.optimizer for home in homes}.values():
            optimizer.register_step_pre_hook(self._before_step)

    def take(self) -> Tensor:
        """This rank's part of the penalty before the last update, whose sum over the ranks is the penalty."""
        value, self._value = self._value, None
        return torch.zeros(()) if value is None else value

    def _read(self, fisher: Fisher, homes: Sequence[zero.Home], ranks: Ranks) -> None:
        """Collective: reads the Fisher information of the elements that this rank updates."""
        reads = []
        for home in homes:
            if home.owner not in self._fisher:
                self._fisher[home.owner] = torch.zeros_like(home.owner, dtype=torch.float32, requires_grad=False)
            known = min(home.num_elements, fisher.num_elements.get(home.name, 0) - home.start)
            if known > 0:
                values = self._fisher[home.owner].view(-1)[home.offset : home.offset + known]
                reads.append(Read(home.name, home.start, values))
        fisher.tensors.read_together(reads, ranks)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in self._w0 and parameter.grad is not None:
                    self._hold(parameter, group, optimizer)

    def _hold(self, parameter: Tensor, group: Mapping[str, Any], optimizer: Any) -> None:
        """Adds to the gradient and to the weights of one tensor what the step owes to the penalty."""
        assert parameter.grad is not None
        l2_sp, pull = group.get(L2_SP, 0.0), -group["lr"] * group.get(L2_SP, 0.0)
        # A fused step divides by grad_scale, and is left out where the gradient is not finite.
        scale, skipped = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        total = torch.zeros((), dtype=torch.float64, device=parameter.device)
        tensors: list[Any] = [parameter, parameter.grad, self._w0[parameter]]
        flat = [tensor.view(-1).split(CHUNK) for tensor in tensors]
        held: Any = self._fisher.get(parameter)
        squares = [None] * len(flat[0]) if held is None else held.view(-1).split(CHUNK)
        for weights, grad, w0, fisher in zip(*flat, squares, strict=True):
            away = weights - w0
            total += l2_sp / 2 * away.square().sum(dtype=torch.float64)
            if fisher is not None:
                added = away * fisher
                total += self._weight / 2 * (added * away).sum(dtype=torch.float64)
                grad.add_(added if scale is None else added * scale, alpha=self._weight)
            if pull:
                weights.add_(away if skipped is None else away * (1 - skipped), alpha=pull)
        own = total * self._share[parameter]
        self._value = own if self._value is None else self._value + own


def _groups_of(optimizer: torch.optim.Optimizer, owner: Tensor) -> Sequence[Mapping[str, Any]]:
    """The groups that may hold the tensor. Stage 3 (DeepSpeed 0.19.8) fills its groups in a step only: then all."""
    holding = [group for group in optimizer.param_groups if any(owner is tensor for tensor in group["params"])]
    return holding or optimizer.param_groups
