"""Attention within the borders of texts, by torch's own flash kernel, as an implementation that transformers can use.

A call that has borders (`cu_seq_lens_q`, trainer/tasks/masks.py) sees each text alone and needs no mask. Other calls,
such as those of generation with its cache and its padding on the left, go to scaled_dot_product_attention.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from shardtune.errors import ConfigError
from shardtune.trainer.model.attention.choice import VARLEN
from shardtune.trainer.model.attention.reference import varlen_reference


def register() -> None:
    """Makes the implementation known to transformers in this process; nothing uses it before a model names it."""
    AttentionInterface.register(VARLEN, attend)
    AttentionMaskInterface.register(VARLEN, sdpa_mask)


def kernel_of(device: torch.device) -> Callable[..., Any]:
    """varlen_attn, or on a CPU, where that has no kernel, what computes the same."""
    return varlen_reference if device.type == "cpu" else varlen_attn


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """The attended values, of shape (rows, queries, heads, size of a head); there are no weights to return.

    `query` has the shape (rows, heads, queries, size), `key` and `value` (rows, heads or fewer, keys, size). Raises
    ConfigError if texts have borders and the model needs something that the kernel lacks.
    """
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    if cu_seq_lens_q is None or cu_seq_lens_k is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **more
        )
    _refuse(module, dropout, more)
    rows, heads, length, _ = query.shape
    if length < key.shape[2]:
        mask = first_text_mask(cu_seq_lens_k, rows, key.shape[2])
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, is_causal=False)
    output: Tensor = kernel_of(query.device)(
        *(states.transpose(1, 2).reshape(-1, states.shape[1], states.shape[3]) for states in (query, key, value)),
        cu_seq_lens_q,
        cu_seq_lens_k,
        max_length_q,
        max_length_k,
        scale=scaling,
        window_size=window_of(sliding_window, is_causal=causal),
        enable_gqa=heads != key.shape[1],
    )
    return output.view(rows, length, heads, -1), None


def window_of(sliding_window: int | None, *, is_causal: bool) -> tuple[int, int]:
    """How many tokens are seen before and behind each one, besides itself; -1 is all. The window counts itself.

    As transformers calls flash attention: a window of an encoder reaches as far to both sides.
    """
    reach = -1 if sliding_window is None else sliding_window - 1
    return reach, 0 if is_causal else reach


def first_text_mask(places: Tensor, rows: int, length: int) -> Tensor:
    """Where the keys are of the first text of their row; shape (rows, 1, 1, keys). `places` are the texts' borders.

    For a last layer that computes the first position alone (trainer/setup/first_token.py).
    """
    begins = torch.arange(rows, device=places.device, dtype=places.dtype) * length
    ends = places[torch.searchsorted(places, begins, right=True)]
    return (torch.arange(length, device=places.device) < (ends - begins)[:, None])[:, None, None]


def _refuse(module: nn.Module, dropout: float, more: dict[str, Any]) -> None:
    lacking = [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]
    if dropout:
        lacking.append(f"dropout ({dropout:g})")
    if lacking:
        raise ConfigError(
            f"model.attention: {VARLEN} lacks what {type(module).__name__} needs: {', '.join(lacking)}; set it to sdpa "
            "or eager"
        )
