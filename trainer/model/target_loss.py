"""The loss of a large vocabulary: the model returns it, and never holds all of the logits.

The logits of every token are the largest tensors of a training: with a vocabulary of 50 to 250 thousand, more than the
rest of a small model's step together. Two things avoid them. The last layer sees the targets only, not a chat's prompt
or padding. And it computes these a chunk at a time: the chunk's loss and gradients are kept, its logits are not (as in
Liger Kernel: Hsu et al., 2024, section 3.2, and in torch's linear_cross_entropy, which rounds the loss to 16 bits and
does not weight targets).
"""

from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from shardtune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**29}
"""Device -> bytes of a chunk's logits in fp32. Small chunks read all weights of the last layer for a few targets."""


ChunkedLoss = Callable[[Tensor, Tensor, Tensor | None, Tensor, Tensor | None], Tensor]
"""What computes the loss from the hidden states without all of the logits; see chunked_loss."""


def keep_target_loss(
    model: "PreTrainedModel", in_chunks: ChunkedLoss | None = None, *, is_chunked: bool | None = None
) -> None:
    """Makes the model accept `targets`, the label of each target, `target_positions`, where they are in the flattened
    rows, and `target_weights`, the weight of each (1 by default); all of shape (targets,).

    output.logits is then a tensor of shape (2,) in fp32: the weighted cross entropy summed over the targets, and the
    number of targets that are the likeliest token. The latter is nan if gradients are needed: it would take time, and
    only evaluations use it. With `each_target` it has the shape (2, targets) instead: the loss of each target, and
    whether it is the likeliest token. Without `targets` nothing changes.

    The first pass with targets decides whether to compute in chunks: not if the model changes the logits after its last
    layer (Gemma's soft cap, Marian's biases), and not in fp16, whose gradients need the loss scale throughout. In
    chunks, `in_chunks` computes it in place of chunked_loss. With `is_chunked` that is decided, and no value is read.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise DataError(f"model.path: {type(model).__name__} does not report which of its layers computes the logits")
    is_cached = "use_cache" in signature(type(model).forward).parameters
    _TargetLoss(head, is_cached=is_cached, in_chunks=in_chunks or chunked_loss, is_chunked=is_chunked).watch(model)


class _TargetLoss:
    """The targets of the current pass, and what the last layer computes for them."""

    def __init__(self, head: nn.Module, *, is_cached: bool, in_chunks: ChunkedLoss, is_chunked: bool | None) -> None:
        self._head, self._in_chunks = head, in_chunks
        self._whole: Callable[[Tensor], Tensor] = head.forward
        # Generation requests the cache of keys and values itself. For a whole text the cache would be a copy of them,
        # and position ids that start again would not keep examples apart (transformers' _preprocess_mask_arguments).
        self._uncached = {"use_cache": False} if is_cached else {}
        self._positions: Tensor | None = None
        """Where the targets are; None in a pass without targets."""
        self._labels: Tensor | None = None
        self._weights: Tensor | None = None
        """Weights of the targets; shape (targets,)."""
        self._is_each = False
        """Whether each target's loss is wanted, in place of their sum."""
        self._answered: tuple[Tensor, Tensor | None] | None = None
        """The last layer's logits and, until it is known whether the model changes them, a copy."""
        self._is_chunked = is_chunked

    def watch(self, model: nn.Module) -> None:
        model.register_forward_pre_hook(self._take, with_kwargs=True)
        model.register_forward_hook(self._give)
        self._head.register_forward_pre_hook(self._select)
        self._head.forward = self._answer

    def _take(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._labels, self._weights = kwargs.pop("targets", None), kwargs.pop("target_weights", None)
        self._is_each = kwargs.pop("each_target", False)
        self._positions = None if self._labels is None else kwargs.pop("target_positions")
        return args, self._uncached | kwargs

    def _select(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # By positions, not by a mask: on a GPU that would wait for the number of targets.
        if self._positions is None:
            return args
        positions = self._positions.to(args[0].device)  # of a model that is divided over GPUs, the last one
        return args[0].flatten(0, -2).index_select(0, positions), *args[1:]

    def _answer(self, hidden: Tensor) -> Tensor:
        if self._labels is None:
            return self._whole(hidden)
        if self._is_chunked:
            head: Any = self._head
            if self._is_each:
                return _each_in_chunks(self._whole, hidden, head.weight, self._labels, self._weights)
            return self._in_chunks(hidden, head.weight, head.bias, self._labels, self._weights)
        logits = self._whole(hidden)
        self._answered = logits, logits.detach().clone() if self._is_chunked is None else None
        return logits

    def _give(self, _: nn.Module, args: Any, output: Any) -> Any:
        if self._labels is None or self._is_chunked:
            return output
        logits: Tensor = output.logits
        assert self._answered is not None, "the model computed its logits without its last layer"
        answered, copy = self._answered
        if copy is not None and len(logits):
            is_untouched = (
                logits.shape == answered.shape
                and logits.data_ptr() == answered.data_ptr()
                and torch.equal(logits.detach(), copy)
            )
            self._is_chunked = is_untouched and type(self._head) is nn.Linear and logits.dtype != torch.float16
        self._answered = None
        loss = _loss_of_each if self._is_each else _loss
        output.logits = loss(logits, self._labels, self._weights)
        return output


def _loss_of_each(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    logits = logits.float()
    losses = cross_entropy(logits, labels, reduction="none")
    return torch.stack((losses if weights is None else losses * weights, (logits.argmax(-1) == labels).float()))


def _each_in_chunks(
    head: Callable[[Tensor], Tensor], hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor | None
) -> Tensor:
    """As _loss_of_each, without gradients and without all of the logits at once."""
    size = targets_at_once(len(weight), hidden.device.type)
    pieces = [hidden.new_empty((2, 0), dtype=torch.float32)]
    for start in range(0, len(hidden), size):
        place = slice(start, start + size)
        pieces.append(_loss_of_each(head(hidden[place]), labels[place], None if weights is None else weights[place]))
    return torch.cat(pieces, 1)


def _loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    logits = logits.float()
    losses = cross_entropy(logits, labels, reduction="none")
    right = logits.new_full((), float("nan")) if losses.requires_grad else (logits.argmax(-1) == labels).sum()
    return torch.stack((losses.sum() if weights is None else (losses * weights).sum(), right.float()))


def targets_at_once(vocabulary_size: int, device: str) -> int:
    """Number of targets of a chunk on a device of this type."""
    return max(1, CHUNK_BYTES[device] // (4 * vocabulary_size))


def chunked_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, weights: Tensor | None) -> Tensor:
    """The loss and the number of correct targets, as described in keep_target_loss.

    `hidden` of shape (targets, hidden size), `weight` (vocabulary, hidden size), `bias` (vocabulary,), `labels` and
    `weights` (targets,).
    """
    apply: Any = _ChunkedLoss.apply
    loss, right = apply(hidden, weight, bias, labels, weights, torch.is_grad_enabled())
    return torch.stack((loss, right))


class _ChunkedLoss(torch.autograd.Function):
    """Cross entropy that computes its gradients in the forward pass, while a chunk's logits are in memory.

    The gradient of the sum depends on later operations by a factor only, which backward applies.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        weights: Tensor | None,
        wants_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        wanted = [wants_gradients and needed for needed in ctx.needs_input_grad[:3]]
        loss, right = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        of_hidden = torch.empty_like(hidden) if wanted[0] else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        size = targets_at_once(len(weight), hidden.device.type)
        for start in range(0, len(hidden), size):
            place = slice(start, start + size)
            states, target = hidden[place], labels[place, None]
            logits = linear(states, weight, bias).float()
            if not wants_gradients:
                right += (logits.argmax(1, keepdim=True) == target).sum()
            log_sum = logits.logsumexp(1, keepdim=True)
            losses = log_sum - logits.gather(1, target)
            loss += losses.sum() if weights is None else losses[:, 0] @ weights[place]
            if not any(wanted):
                continue
            gradient = logits.sub_(log_sum).exp_()
            gradient.scatter_add_(1, target, torch.full_like(losses, -1))
            if weights is not None:
                gradient *= weights[place, None]
            if of_bias is not None:
                of_bias += gradient.sum(0)
            gradient = gradient.to(hidden.dtype)
            if of_hidden is not None:
                of_hidden[place] = gradient @ weight
            if of_weight is not None:
                of_weight += gradient.T @ states
            del logits, gradient  # or they would be in memory beside those of the next chunk
        if not wants_gradients:
            return loss, right
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        ctx.dtype = weight.dtype
        ctx.mark_non_differentiable(right)
        return loss, right.fill_(float("nan"))

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor, of_right: Tensor) -> tuple[Tensor | None, ...]:
        # In fp32: the error of a factor rounded to 16 bits would be in all gradients alike.
        gradients = [None if saved is None else (saved.float() * of_loss).to(ctx.dtype) for saved in ctx.saved_tensors]
        return *gradients, None, None, None
