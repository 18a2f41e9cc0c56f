"""What torch.nn.attention.varlen.varlen_attn computes, where it has no kernel: on CPUs, one text after another."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def varlen_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """The attended values, of shape (queries, heads, size); arguments as those of varlen_attn.

    A text has as many queries as keys.
    """
    places = cu_seq_q.tolist()
    assert places == cu_seq_k.tolist(), "self-attention"
    assert max_q == max_k == max(end - start for start, end in pairwise(places)), "the longest text"
    outputs = []
    how: dict[str, Any] = {"is_causal": window_size == (-1, 0), "scale": scale, "enable_gqa": enable_gqa}
    for start, end in pairwise(places):
        # Shape (1, heads, tokens, size): a batch of one, for which there are fused kernels.
        queries, keys, values = (states[start:end].transpose(0, 1)[None] for states in (query, key, value))
        mask = None if window_size in ((-1, -1), (-1, 0)) else _window_mask(end - start, window_size)
        attended = functional.scaled_dot_product_attention(queries, keys, values, mask, **how)
        outputs.append(attended[0].transpose(0, 1))
    return torch.cat(outputs)


def _window_mask(length: int, window_size: tuple[int, int]) -> Tensor:
    """Which keys each query sees; shape (queries, keys)."""
    before, behind = (length if reach < 0 else reach for reach in window_size)
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    return (distance >= -before) & (distance <= behind)
