"""AdamW whose two moments are kept in bf16, rounded up or down at random so that small changes are not lost.

bf16 has 8 bits: with a decay rate of 0.999 the second moment changes by less than half of the last one, and rounding to
the nearest would keep it as it is for ever. Rounded stochastically, it is right on average (Gupta et al., 2015). The
weights stay in fp32.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

CHUNK = 2**22
"""Elements that are updated at a time: what an update needs besides its states is a few tensors of this size."""
FACTOR = 0x45D9F3B
"""An odd number whose products mix bits."""
SALTS = {"exp_avg": 0x1B873593, "exp_avg_sq": 0x2545F491}
"""Numbers that keep the two moments from being rounded alike."""


class Bf16StatesAdamW(torch.optim.Optimizer):
    """The step of torch.optim.AdamW, in fp32, with moments read from bf16 and written back."""

    def __init__(
        self, params: Iterable[Any], *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "state_dtype": torch.bfloat16}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates all parameters with a gradient."""
        assert closure is None, "nothing is evaluated anew"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        for key in SALTS:
            if key not in state:
                state[key] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        state["step"] = state.get("step", torch.zeros(())) + 1
        assert parameter.grad is not None
        flat = [tensor.view(-1) for tensor in (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])]
        for parts in zip(*(tensor.split(CHUNK) for tensor in flat), strict=True):
            _update_part(*parts, number=int(state["step"]), group=group)


def _update_part(
    weights: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, *, number: int, group: dict[str, Any]
) -> None:
    """Step `number` of AdamW (Loshchilov and Hutter, 2019, algorithm 2) for some elements."""
    first_rate, second_rate = group["betas"]
    first = exp_avg.float().lerp_(grad, 1 - first_rate)
    second = exp_avg_sq.float().mul_(second_rate).addcmul_(grad, grad, value=1 - second_rate)
    exp_avg.copy_(round_at_random(first, SALTS["exp_avg"] + number))
    exp_avg_sq.copy_(round_at_random(second, SALTS["exp_avg_sq"] + number))
    below = second.sqrt_().mul_((1 - second_rate**number) ** -0.5).add_(group["eps"])
    weights.mul_(1 - group["lr"] * group["weight_decay"])
    weights.addcdiv_(first, below, value=-group["lr"] / (1 - first_rate**number))


def round_at_random(values: Tensor, salt: int) -> Tensor:
    """fp32 values that bf16 can hold, each one of the two neighbors, with the nearer one likelier.

    What chooses is a hash of the value and of `salt`: the same for each layout of ranks, and after a restart.
    """
    bits = values.view(torch.int32)
    hashed = bits ^ salt
    for _ in range(2):
        hashed = hashed.mul_(FACTOR)
        hashed = hashed.bitwise_xor_(hashed >> 16)
    return hashed.bitwise_and_(0xFFFF).add_(bits).bitwise_and_(-0x10000).view(torch.float32)
