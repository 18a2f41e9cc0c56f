"""How the architectures of transformers differ in what a config does not say: biases, norms, tables of positions.

A new architecture is a line in FAMILIES; tests/shardtune/planner/test_model_shape.py counts it against transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Family:
    """Architectures with the same parameters."""

    is_encoder: bool = False
    is_encoder_decoder: bool = False
    is_gated: bool = False
    is_tied: bool = False
    """If the config does not say so."""
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    ignores_attention_bias: bool = False
    norm_has_bias: bool = False
    """LayerNorm with a bias; RMSNorm otherwise."""
    norms: int = 2
    """Normalizations of a layer, without that of its cross-attention."""
    final_norms: int = 1
    embedding_norms: int = 0
    scales_in_fp32: bool = False
    """Whether RMSNorms multiply by their weights before they round to the model's precision."""
    query_norm: Literal["none", "head", "whole"] = "none"
    """Whether queries and keys are normalized, by head or as a whole."""
    positions_offset: int | None = None
    """Learned positions: rows of the table beyond the longest text; None if there is no table."""
    separate_positions: bool = True
    """Whether encoder and decoder have a table each."""
    has_types: bool = False
    has_relative_positions: bool = False
    has_experts: bool = False
    head_dense: bool = False
    """Whether a layer and a norm come before the logits of the vocabulary (BERT)."""
    head_bias: bool = False
    changes_logits: bool = False
    """Whether the model adds to its logits, so that its loss cannot be computed in chunks."""
    labels_hidden: int = 0
    """Layers of hidden x hidden before the last layer of a classifier."""
    labels_bias: bool = False


_LLAMA = Family(is_gated=True)
_GPT = Family(qkv_bias=True, out_bias=True, mlp_bias=True, norm_has_bias=True, is_tied=True)
_BERT = replace(
    _GPT,
    is_encoder=True,
    final_norms=0,
    embedding_norms=1,
    positions_offset=0,
    has_types=True,
    head_dense=True,
    head_bias=True,
    labels_hidden=1,
    labels_bias=True,
)
_BART = replace(
    _GPT,
    is_encoder_decoder=True,
    positions_offset=2,
    embedding_norms=2,
    final_norms=0,
    changes_logits=True,
    labels_hidden=1,
    labels_bias=True,
)
_T5 = Family(is_encoder_decoder=True, is_tied=True, final_norms=2, has_relative_positions=True)

FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "ministral": _LLAMA,
    "phi3": _LLAMA,
    "granite": replace(_LLAMA, is_tied=True),
    "smollm3": replace(_LLAMA, is_tied=True),
    "qwen2": replace(_LLAMA, qkv_bias=True, ignores_attention_bias=True),
    "qwen3": replace(_LLAMA, query_norm="head"),
    "gemma": replace(_LLAMA, is_tied=True, scales_in_fp32=True),
    "gemma2": replace(_LLAMA, is_tied=True, scales_in_fp32=True, norms=4),
    "gemma3_text": replace(_LLAMA, is_tied=True, scales_in_fp32=True, norms=4, query_norm="head"),
    "olmo2": replace(_LLAMA, query_norm="whole"),
    "mixtral": replace(_LLAMA, has_experts=True),
    "qwen2_moe": replace(_LLAMA, has_experts=True, qkv_bias=True, ignores_attention_bias=True),
    "qwen3_moe": replace(_LLAMA, has_experts=True, query_norm="head"),
    "gpt2": replace(_GPT, positions_offset=0),
    "opt": replace(_GPT, positions_offset=2),
    "gpt_neox": replace(_GPT, is_tied=False),
    "bloom": replace(_GPT, embedding_norms=1),
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": replace(_BERT, has_types=False),
    "t5": _T5,
    "mt5": replace(_T5, is_gated=True, is_tied=False),
    "bart": _BART,
    "mbart": replace(_BART, final_norms=2),
    "marian": replace(_BART, positions_offset=0, embedding_norms=0),
    "m2m_100": replace(_BART, changes_logits=False, positions_offset=None, embedding_norms=0, final_norms=2),
}
"""model_type of a config -> family."""
