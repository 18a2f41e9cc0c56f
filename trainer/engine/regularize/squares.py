"""An optimizer that updates nothing, and adds up the squares of the gradients of its steps instead.

In the place of AdamW it makes any engine compute a diagonal of the Fisher information, divided among the ranks and
saved in checkpoints' format as the engine's optimizer states are.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

SQUARES = "squared_gradients"
"""The optimizer's only state."""


class SquaredGradients(torch.optim.Optimizer):
    """Each step adds the squared gradient, in fp32, to the state SQUARES of each parameter."""

    def __init__(self, params: Iterable[Any]) -> None:
        super().__init__(params, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Adds the squares of the present gradients."""
        assert closure is None, "nothing is evaluated anew"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if SQUARES not in state:
                        state[SQUARES] = torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
                    state[SQUARES].addcmul_(parameter.grad, parameter.grad)
