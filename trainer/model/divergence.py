"""The KL divergence of a model's distribution from the pretrained one, at the targets, a chunk at a time.

KL(base || tuned) = sum over the vocabulary of base * (log base - log tuned), in nats: the direction that predicts
forgetting when it is measured on the new task (Shenfeld et al., 2025). All that it takes of the base is its last hidden
states and its last layer: its logits are never all in memory.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


@dataclass(frozen=True)
class BaseTargets:
    """What the pretrained model computes for the targets of a batch; without gradients."""

    hidden: Tensor
    """The inputs of its last layer; shape (targets, hidden size)."""
    weight: Tensor | None = None
    """Its last layer, of shape (vocabulary, hidden size); None where the model's own is still the pretrained one."""
    bias: Tensor | None = None
    """Shape (vocabulary,)."""
    share: float = 0.0
    """The weight of the divergence in what is trained; 0 where it is only measured."""

    def logits(self, place: slice, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Its logits at some of the targets; `weight` and `bias` are the model's own last layer."""
        layer = (weight, bias) if self.weight is None else (self.weight, self.bias)
        with torch.no_grad():
            return linear(self.hidden[place], *layer)


def compare(base_logits: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """The base's probabilities, of shape (targets, vocabulary), and KL(base || model) of each target; both in fp32.

    `log_p` are the model's log-probabilities in fp32, which stay as they are.
    """
    log_q = base_logits.float().log_softmax(1)
    q = log_q.exp()
    terms = log_q.sub_(log_p).mul_(q)
    # Where the base excludes a token, its logarithm is infinite and the term 0, as in the limit.
    return q, terms.masked_fill_(q == 0, 0).sum(1)


def divergence(logits: Tensor, base_logits: Tensor, weights: Tensor | None, *, at_once: int) -> Tensor:
    """KL(base || model) summed over the targets, each with its weight (1 by default); a scalar in fp32.

    Both logits have the shape (targets, vocabulary); `at_once` targets are computed together. The gradient is that of
    `logits` alone.
    """
    apply: Any = _Divergence.apply
    total: Tensor = apply(logits, base_logits, weights, at_once)
    return total


class _Divergence(torch.autograd.Function):
    """Computes the probabilities of a chunk again in the backward pass: they are never all in memory, and the gradient
    is scaled before it is rounded, as fp16 needs it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, base_logits: Tensor, weights: Tensor | None, at_once: int) -> Tensor:
        ctx.save_for_backward(logits, base_logits, weights)
        ctx.at_once = at_once
        total = logits.new_zeros((), dtype=torch.float32)
        for start in range(0, len(logits), at_once):
            place = slice(start, start + at_once)
            _, of_each = compare(base_logits[place], logits[place].float().log_softmax(1))
            total += of_each.sum() if weights is None else of_each @ weights[place]
        return total

    @staticmethod
    def backward(ctx: Any, of_total: Tensor) -> tuple[Tensor | None, ...]:
        logits, base_logits, weights = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for start in range(0, len(logits), ctx.at_once):
            place = slice(start, start + ctx.at_once)
            part = logits[place].float().softmax(1).sub_(base_logits[place].float().softmax(1))
            if weights is not None:
                part.mul_(weights[place, None])
            gradient[place] = part.mul_(of_total)
        return gradient, None, None, None
