"""Attention that trains fast on a CPU; a GPU has its own kernels.

On a CPU, PyTorch (2.13) does not use its fused kernel with dropout, and its backward pass is slow in bf16. Here the
weights are computed a few heads at a time, so that they stay in a core's cache from the scores to the output. With
dropout they are kept, in their own precision: the sign bit, which no weight needs, marks what was dropped. Without
dropout they are recomputed in the backward pass (Dao et al., 2022, "FlashAttention", algorithm 4).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from shardtune.trainer.setup.cpu_dropout import WHOLE, Draws, replaced_on_cpu

AT_ONCE = 2**21
"""Attention weights that are computed at a time, but at least those of one head."""
LONGEST = 2**24
"""Weights of a head beyond which torch's kernel is used: it never holds all of them, so it takes less memory."""
SIGN = {torch.bfloat16: -(2**15), torch.float16: -(2**15), torch.float32: -(2**31)}
_torchs_attention = functional.scaled_dot_product_attention


def fast_attention(device: torch.device) -> AbstractContextManager[None]:
    """Replaces torch.nn.functional.scaled_dot_product_attention by `attention` while a CPU trains."""
    return replaced_on_cpu("scaled_dot_product_attention", attention, device)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Same as torch.nn.functional.scaled_dot_product_attention, which it calls on a GPU and where that is as fast."""
    how: dict[str, Any] = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
    if not _is_ours(query, key, value, attn_mask, dropout_p):
        return _torchs_attention(query, key, value, attn_mask, **how)
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    output: Tensor = _Attention.apply(query, key, value, attn_mask, is_causal, dropout_p, scale)  # type: ignore[no-untyped-call]
    return output


def _is_ours(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float) -> bool:
    if query.device.type != "cpu" or query.dtype not in WHOLE or query.dim() != 4 or not 0 <= dropout_p < 1:
        return False
    if mask is not None and mask.requires_grad:  # learned relative positions
        return False
    if dropout_p == 0 and query.shape[-2] * key.shape[-2] > LONGEST:
        return False
    is_trained = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    # Without dropout: 16 rows of 104 tokens, 12 heads of 32, bf16, one core with AMX: the backward pass takes 114 ms in
    # torch and 10 ms here. In fp32 both take about as long.
    return dropout_p > 0 or (is_trained and query.dtype == torch.bfloat16)


def _bias(mask: Tensor | None, query: Tensor, key: Tensor, *, is_causal: bool) -> Tensor | None:
    """The mask as a term added to the scores; shape (rows or 1, heads or 1, queries or 1, keys)."""
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
    # The softmax of a query that sees nothing (-inf everywhere) would be nan.
    return mask[(None,) * (4 - mask.dim())].to(query.dtype).clamp_min(torch.finfo(query.dtype).min)


class _Attention(torch.autograd.Function):
    """Shapes are (rows, heads, tokens, size of a head); the mask has no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        p: float,
        scale: float,
    ) -> Tensor:
        ctx.is_causal, ctx.scale, ctx.drops = is_causal, scale, p > 0
        if not ctx.drops:
            output = _torchs_attention(query, key, value, mask, is_causal=is_causal, scale=scale)
            ctx.save_for_backward(query, key, value, mask, output, None)
            return output
        bias = _bias(mask, query, key, is_causal=is_causal)
        rows, heads, queries, _ = query.shape
        draws = Draws(p)
        ctx.kept_scale = draws.scale
        output = _like(query, size=value.shape[-1])
        signed = torch.empty(rows, heads, queries, key.shape[2], dtype=query.dtype)
        for part in _parts(signed.shape):
            weights = _weights(query, key, bias, scale, part, out=_taken(signed, part))
            bits = weights.view(WHOLE[weights.dtype])
            dropped = draws.below(weights.numel()).to(bits.dtype).view(bits.shape)
            bits.bitwise_or_(dropped.bitwise_and_(SIGN[weights.dtype]))
            _put(weights.clamp_min(0) @ _taken(value, part), draws.scale, output, part)
        ctx.save_for_backward(query, key, value, None, output, signed)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, output, signed = ctx.saved_tensors
        bias = _bias(mask, query, key, is_causal=ctx.is_causal) if signed is None else None
        of_query, of_key, of_value = (_like(tensor) for tensor in (query, key, value))
        # For each query, the sum of its weights times their gradients, whichever of them were dropped.
        total = (grad.float() * output).sum(-1, keepdim=True).to(grad.dtype)
        if ctx.drops:
            grad = grad * ctx.kept_scale
        for part in _parts((*query.shape[:3], key.shape[2])):
            weights = _weights(query, key, bias, ctx.scale, part) if signed is None else _taken(signed, part)
            kept = weights.clamp_min(0) if ctx.drops else weights
            part_grad, part_total = _taken(grad, part), _taken(total, part)
            _put(kept.transpose(-1, -2) @ part_grad, 1.0, of_value, part)
            of_scores = part_grad @ _taken(value, part).transpose(-1, -2)
            if ctx.drops:
                unsigned = weights.view(WHOLE[weights.dtype]).bitwise_and(~SIGN[weights.dtype]).view(weights.dtype)
                of_scores.mul_(kept).addcmul_(unsigned, part_total, value=-1)
            else:
                of_scores.sub_(part_total).mul_(weights)
            _put(of_scores @ _taken(key, part), ctx.scale, of_query, part)
            _put(of_scores.transpose(-1, -2) @ _taken(query, part), ctx.scale, of_key, part)
        return of_query, of_key, of_value, None, None, None, None


def _weights(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float, part: tuple[slice, slice], out: Tensor | None = None
) -> Tensor:
    """The attention weights of some rows' heads, before dropout; shape (heads, queries, keys)."""
    queries, keys = _taken(query, part), _taken(key, part)
    scores = query.new_empty(*queries.shape[:2], keys.shape[1]) if out is None else out
    scores.baddbmm_(queries, keys.transpose(-1, -2), beta=0, alpha=scale)
    if bias is not None:
        place = tuple(index if size > 1 else slice(None) for index, size in zip(part, bias.shape, strict=False))
        if bool(bias[place].any()):  # false where no row of the part has padding
            scores.view(query[part].shape[:2] + scores.shape[1:]).add_(bias[place])
    return torch.softmax(scores, -1, out=scores)


def _taken(tensor: Tensor, part: tuple[slice, slice]) -> Tensor:
    """The heads of some rows, one behind another; shape (heads, tokens, size). A view if memory has that order."""
    return tensor[part].reshape(-1, *tensor.shape[2:])


def _put(heads: Tensor, scale: float, tensor: Tensor, part: tuple[slice, slice]) -> None:
    """Inverse of _taken: writes the heads, times the scale, to their place in the tensor."""
    place = tensor[part]
    torch.mul(heads.view(place.shape), scale, out=place)


def _parts(shape: torch.Size | tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """The rows and heads that are computed together, for weights of this shape: whole rows, or heads of one row."""
    rows, heads, queries, keys = shape
    together = max(1, AT_ONCE // (heads * queries * keys))
    heads_together = heads if heads * queries * keys <= AT_ONCE else max(1, AT_ONCE // (queries * keys))
    for row in range(0, rows, together):
        for head in range(0, heads, heads_together):
            yield slice(row, row + together), slice(head, head + heads_together)


def _like(tensor: Tensor, size: int | None = None) -> Tensor:
    """An empty tensor of the same shape, in the layout that models need next: a token's heads one after another."""
    rows, heads, tokens, own_size = tensor.shape
    return tensor.new_empty(rows, tokens, heads, size or own_size).transpose(1, 2)
