"""The moving average of the weights (Polyak and Juditsky, 1992, "Acceleration of stochastic approximation by
averaging"), kept in fp32 beside the optimizer's states, and divided among the ranks as these are.

The optimizer's owners of weights (trainer/engine/zero_layout.py) have it as one more state. Averaged weights take the
place of the others, and give it back, by an exchange, so that they are nowhere twice.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from shardtune.trainer.engine.states.names import AVERAGE

AT_ONCE = 2**24
"""Elements that are exchanged at a time: what an exchange needs is a tensor of this size."""

Owner = tuple[torch.optim.Optimizer, Tensor]
"""An optimizer, and a tensor of weights that it updates: the key of their states."""


@torch.no_grad()
def update_average(owners: Sequence[Owner], decay: float) -> None:
    """Moves the average towards the weights by 1 - decay; where there is none yet, it begins with them."""
    for weights, state in _with_states(owners):
        if AVERAGE in state:
            state[AVERAGE].lerp_(weights, 1 - decay)
        else:
            state[AVERAGE] = weights.float().clone()


@torch.no_grad()
def exchange_average(owners: Sequence[Owner]) -> None:
    """Puts the average in the place of the weights, and these in its place; twice, nothing has changed, to the bit."""
    for weights, state in _with_states(owners):
        if AVERAGE in state:
            pairs = zip(*(torch.split(one.view(-1), AT_ONCE) for one in (weights, state[AVERAGE])), strict=True)
            for of_weights, of_average in pairs:
                before = of_weights.clone()
                of_weights.copy_(of_average)
                of_average.copy_(before)


def forget_average(owners: Sequence[Owner]) -> None:
    """Drops the average, and the memory that it takes."""
    for _, state in _with_states(owners):
        state.pop(AVERAGE, None)


def _with_states(owners: Sequence[Owner]) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """The weights that have been updated, with their states: before the first step the optimizer has to make these."""
    for optimizer, owner in owners:
        if state := optimizer.state.get(owner):
            yield owner.detach(), state
