"""The loss of a large vocabulary: the model returns it, and never holds all of the logits.

The logits of every token are the largest tensors of a training: with a vocabulary of 50 to 250 thousand, more than the
rest of a small model's step together. Two things avoid them. The last layer sees the targets only, not a chat's prompt
or padding. And it computes these a chunk at a time: the chunk's loss and gradients are kept, its logits are not (as in
Liger Kernel: Hsu et al., 2024, section 3.2, and in torch's linear_cross_entropy, which rounds the loss to 16 bits and
does not weight targets). The divergence from the pretrained model is computed in the same chunks.
"""

from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from shardtune.errors import DataError
from shardtune.trainer.model.divergence import BaseTargets, compare, divergence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**29}
"""Device -> bytes of a chunk's logits in fp32. Small chunks read all weights of the last layer for a few targets."""
WITH_BASE = 3
"""Chunks are smaller by this factor where the base's logits are computed too: beside a chunk's logits there are then
two more tensors of this size."""

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
    whether it is the likeliest token. With `base`, what the pretrained model computes for these targets, the shape is
    (4,): the loss plus the divergence times base.share, which is trained; the number as above; and the loss and the
    divergence KL(base || model) each by itself, without gradients. With `hidden_of_targets` it is the input of the last
    layer, of shape (targets, hidden size), and no logits are computed. Without `targets` nothing changes.

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
        self._base: BaseTargets | None = None
        self._wants_hidden = False
        """Whether the inputs of the last layer are wanted, in place of a loss."""
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
        self._base, self._wants_hidden = kwargs.pop("base", None), kwargs.pop("hidden_of_targets", False)
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
        head: Any = self._head
        if self._wants_hidden:
            self._answered = hidden, None
            # What the model may do to logits is done to these, which nobody reads.
            return hidden if self._is_chunked else hidden.new_zeros(len(hidden), plain_layer(head).out_features)
        if self._is_chunked:
            if self._is_each:
                return _each_in_chunks(self._whole, hidden, head.weight, self._labels, self._weights)
            if self._base is not None:
                return chunked_loss(hidden, head.weight, head.bias, self._labels, self._weights, self._base)
            return self._in_chunks(hidden, head.weight, head.bias, self._labels, self._weights)
        logits = self._whole(hidden)
        if self._base is not None:  # behind the others, so that the model changes them in the same way
            logits = torch.cat([logits, self._logits_of_base(self._base)])
        self._answered = logits, logits.detach().clone() if self._is_chunked is None else None
        return logits

    @torch.no_grad()
    def _logits_of_base(self, base: BaseTargets) -> Tensor:
        if base.weight is not None:
            return linear(base.hidden, base.weight, base.bias)
        layer = plain_layer(self._head)
        # By the module, where adapters are around it: ZeRO-3 has its weights within a call only.
        logits: Tensor = self._whole(base.hidden) if layer is self._head else layer(base.hidden)
        return logits

    def _give(self, _: nn.Module, args: Any, output: Any) -> Any:
        base, self._base = self._base, None  # its memory is not held until the next pass
        if self._wants_hidden:
            assert self._answered is not None, "the model computed its logits without its last layer"
            output.logits, self._answered = self._answered[0], None
            return output
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
        if base is not None:
            output.logits = _loss_with_base(logits, self._labels, self._weights, base.share)
        else:
            loss = _loss_of_each if self._is_each else _loss
            output.logits = loss(logits, self._labels, self._weights)
        return output


def plain_layer(head: nn.Module) -> nn.Linear:
    """The linear layer that computes the logits, without an adapter that may be around it.

    Raises DataError if another kind of layer does.
    """
    layer = getattr(head, "base_layer", head)
    if not isinstance(layer, nn.Linear):
        raise DataError(
            f"model.path: the last layer is a {type(layer).__name__}, with which no divergence from the pretrained "
            "model can be computed; remove kl_to_base"
        )
    return layer


def _loss_of_each(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    logits = logits.float()
    losses = cross_entropy(logits, labels, reduction="none")
    return torch.stack((losses if weights is None else losses * weights, (logits.argmax(-1) == labels).float()))


def _each_in_chunks(
    head: Callable[[Tensor], Tensor], hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor | None
) -> Tensor:
    """As _loss_of_each; without all of the logits at once, if no gradients are needed."""
    pieces = []
    # Without targets the result still depends on the weights.
    for place in _chunks(max(1, len(hidden)), len(weight), hidden.device.type):
        pieces.append(_loss_of_each(head(hidden[place]), labels[place], None if weights is None else weights[place]))
    return torch.cat(pieces, 1)


def _loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    logits = logits.float()
    losses = cross_entropy(logits, labels, reduction="none")
    right = logits.new_full((), float("nan")) if losses.requires_grad else (logits.argmax(-1) == labels).sum()
    return torch.stack((losses.sum() if weights is None else (losses * weights).sum(), right.float()))


def _loss_with_base(logits: Tensor, labels: Tensor, weights: Tensor | None, share: float) -> Tensor:
    """As `_loss` with a base, from the logits of the model and, behind them, those of the base."""
    own, of_base = logits[: len(labels)], logits[len(labels) :].detach()
    loss, right = _loss(own, labels, weights)
    at_once = targets_at_once(logits.shape[1], logits.device.type, with_base=True)
    total = divergence(own, of_base, weights, at_once=at_once)
    return torch.stack((loss + share * total, right, loss.detach(), total.detach()))


def targets_at_once(vocabulary_size: int, device: str, *, with_base: bool = False) -> int:
    """Number of targets of a chunk on a device of this type."""
    return max(1, CHUNK_BYTES[device] // (4 * vocabulary_size * (WITH_BASE if with_base else 1)))


def chunked_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    weights: Tensor | None,
    base: BaseTargets | None = None,
) -> Tensor:
    """The loss and the number of correct targets and, with a base, the others, as described in keep_target_loss.

    `hidden` of shape (targets, hidden size), `weight` (vocabulary, hidden size), `bias` (vocabulary,), `labels` and
    `weights` (targets,).
    """
    apply: Any = _ChunkedLoss.apply
    trained, right, loss, total = apply(hidden, weight, bias, labels, weights, base, torch.is_grad_enabled())
    return torch.stack((trained, right) if base is None else (trained, right, loss, total))


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
        base: BaseTargets | None,
        wants_gradients: bool,
    ) -> tuple[Tensor, ...]:
        gradients = _Gradients(
            hidden, weight, bias, [wants_gradients and needed for needed in ctx.needs_input_grad[:3]]
        )
        loss, right, total = (hidden.new_zeros((), dtype=torch.float32) for _ in range(3))
        for place in _chunks(len(hidden), len(weight), hidden.device.type, with_base=base is not None):
            target, of_each = labels[place, None], None if weights is None else weights[place]
            logits = linear(hidden[place], weight, bias).float()
            if not wants_gradients:
                right += (logits.argmax(1, keepdim=True) == target).sum()
            log_sum = logits.logsumexp(1, keepdim=True)
            loss += _weighted(log_sum - logits.gather(1, target), of_each)
            if base is None and not gradients.are_wanted:
                continue
            log_p, q = logits.sub_(log_sum), None
            if base is not None:
                q, divergences = compare(base.logits(place, weight, bias), log_p)
                total += _weighted(divergences[:, None], of_each)
            if gradients.are_wanted:
                gradient = log_p.exp_()
                if base is not None and q is not None:
                    gradient.mul_(1 + base.share).sub_(q, alpha=base.share)  # the divergence's is p - q
                gradient.scatter_add_(1, target, torch.full_like(log_sum, -1))
                gradients.add(place, gradient if of_each is None else gradient.mul_(of_each[:, None]))
                del gradient
            del logits, log_p, q  # or they would be in memory beside those of the next chunk
        trained = loss.clone() if base is None else loss + base.share * total
        if not wants_gradients:
            return trained, right, loss, total
        ctx.save_for_backward(gradients.of_hidden, gradients.of_weight, gradients.of_bias)
        ctx.dtype = weight.dtype
        right.fill_(float("nan"))
        ctx.mark_non_differentiable(right, loss, total)
        return trained, right, loss, total

    @staticmethod
    def backward(ctx: Any, of_trained: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # In fp32: the error of a factor rounded to 16 bits would be in all gradients alike.
        saved = ctx.saved_tensors
        gradients = [None if one is None else (one.float() * of_trained).to(ctx.dtype) for one in saved]
        return *gradients, None, None, None, None


class _Gradients:
    """The gradients by the inputs, the weight and the bias of the last layer, those of them that are wanted."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]) -> None:
        self._hidden, self._weight = hidden, weight
        self.are_wanted = any(wanted)
        self.of_hidden = torch.empty_like(hidden) if wanted[0] else None
        self.of_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        self.of_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None

    def add(self, place: slice, of_logits: Tensor) -> None:
        """Adds those of a chunk, from the gradient of its logits in fp32."""
        if self.of_bias is not None:
            self.of_bias += of_logits.sum(0)
        of_logits = of_logits.to(self._hidden.dtype)
        if self.of_hidden is not None:
            self.of_hidden[place] = of_logits @ self._weight
        if self.of_weight is not None:
            self.of_weight += of_logits.T @ self._hidden[place]


def _weighted(losses: Tensor, weights: Tensor | None) -> Tensor:
    """The sum of losses of shape (targets, 1), each with its weight."""
    return losses.sum() if weights is None else losses[:, 0] @ weights


def _chunks(num_targets: int, vocabulary_size: int, device: str, *, with_base: bool = False) -> Iterator[slice]:
    """The targets of each chunk."""
    size = targets_at_once(vocabulary_size, device, with_base=with_base)
    return (slice(start, start + size) for start in range(0, num_targets, size))
