"""How many floating-point operations a training step needs: counted from the model's weights and the rows' lengths.

A multiplication and an addition count as two operations. Recomputation (activation checkpointing) and padding are not
counted, so that a faster way to the same gradient counts as faster: model FLOPs, as in Chowdhery et al., 2022 (PaLM,
appendix B) and Korthikanti et al., 2023 (section 5.3).
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shardtune.trainer.model.lora import is_linear
from shardtune.trainer.model.pretrained import first_number
from shardtune.trainer.model.quantized.linear import QuantizedLinear

FORWARD, BACKWARD_INPUTS, BACKWARD_WEIGHTS = 2, 2, 2
"""Operations for each weight and token that the weight is applied to."""
ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")
"""The kinds of layers, as a config names them, that have attention scores."""
LAYER = re.compile(r"\.(?:layers|layer|h|block|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Attention:
    """Scores between positions in some equal layers: q k^T, and their product with v."""

    queries: str
    """Which side asks, `source` or `target`."""
    keys: str
    per_pair: float
    """Operations for each pair of a query and a key that it sees, forwards and backwards."""
    is_causal: bool = False
    window: int | None = None

    def num_pairs(self, queries: NDArray[np.float64], keys: NDArray[np.float64]) -> float:
        """Number of pairs in rows with so many queries and keys each."""
        if not self.is_causal:
            seen = keys if self.window is None else np.minimum(keys, 2 * self.window - 1)
            return float((queries * seen).sum())
        window = keys if self.window is None else np.minimum(keys, self.window)
        return float((queries * window - window * (window - 1) / 2).sum())


@dataclass(frozen=True)
class ModelFlops:
    """The operations of a model's training step."""

    per_weight: Mapping[str, float]
    """Operations for each token of a side (`source`, `target`), token with a loss (`loss`), or row (`row`)."""
    attention: tuple[Attention, ...]

    def of_rows(self, num_tokens: NDArray[Any], num_targets: NDArray[Any], *, is_encoder_decoder: bool) -> float:
        """Operations of a step on rows with so many tokens and tokens with a loss each, both of shape (rows,).

        In an encoder-decoder `num_tokens` counts source and target, and each target token has a loss.
        """
        tokens, losses = np.asarray(num_tokens, dtype=np.float64), np.asarray(num_targets, dtype=np.float64)
        sides = {
            "source": tokens - losses if is_encoder_decoder else tokens,
            "target": losses,
            "loss": losses,
            "row": np.ones_like(tokens),
        }
        linear = sum(each * float(sides[side].sum()) for side, each in self.per_weight.items())
        return linear + sum(
            part.per_pair * part.num_pairs(sides[part.queries], sides[part.keys]) for part in self.attention
        )


def count_flops(model: Any) -> ModelFlops:
    """What the model needs, by which of its weights are trained now. Embeddings are looked up and need nothing.

    Frozen weights below the first trained one need no gradient at all; those above pass one on. Of experts, those that
    a token is sent to count. Recurrences (Mamba) and convolutions count by their weights alone.
    """
    per_weight = dict.fromkeys(("source", "target", "loss", "row"), 0.0)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    order = {name: number for number, name in enumerate(_names(model))}
    first = min((order[name] for name in trained), default=math.inf)
    head = _head_weight(model)
    for name, is_trained, size in _weights(model):
        passes_on = order[name] > first
        each = FORWARD + BACKWARD_INPUTS * passes_on + BACKWARD_WEIGHTS * is_trained
        per_weight["loss" if name == head else _side(model, name)] += each * size
    return ModelFlops(per_weight, tuple(_attention(model, _first_trained_layer(list(order), first))))


def _first_trained_layer(names: Sequence[str], first: float) -> float:
    """The first layer that passes a gradient on: where the weight number `first` is, the first trained one of these."""
    if first < len(names) and (layer := LAYER.search(f".{names[int(first)]}")):
        return int(layer[1])
    is_behind = any(LAYER.search(f".{name}") for number, name in enumerate(names) if number < first)
    return math.inf if is_behind else 0


def _names(model: nn.Module) -> Iterator[str]:
    """The names of all weights in their order, also of quantized ones, which are no parameters."""
    for module_name, module in model.named_modules(remove_duplicate=False):
        own = [name for name, _ in module.named_parameters(recurse=False, remove_duplicate=False)]
        for name in ["weight", *own] if isinstance(module, QuantizedLinear) else own:
            yield f"{module_name}.{name}".lstrip(".")


def _weights(model: Any) -> Iterator[tuple[str, bool, float]]:
    """Name of each weight that tokens are multiplied by, whether it is trained, and how many numbers of it a token
    meets."""
    config = model.config.get_text_config()
    share = first_number(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk") / (
        first_number(config, "num_local_experts", "num_experts", "n_routed_experts") or 1
    )
    for module_name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            yield f"{module_name}.weight", False, module.in_features * module.out_features
            continue
        is_router = type(module).__name__.endswith("Router")
        is_matrix = is_linear(module) or is_router or isinstance(module, nn.Conv1d)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            size, dimensions = _numel(parameter), len(_shape(parameter))
            is_expert = dimensions == 3 and not is_matrix
            if dimensions > 1 and (is_matrix or is_expert):
                yield f"{module_name}.{name}".lstrip("."), parameter.requires_grad, size * (share if is_expert else 1)


def _head_weight(model: Any) -> str | None:
    """The name of the weight that computes the logits of a vocabulary, if there is one."""
    if (head := model.get_output_embeddings()) is None:
        return None
    return next(f"{name}.weight" for name, module in model.named_modules() if module is head)


def _side(model: Any, name: str) -> str:
    """Which tokens are multiplied by the weight of this name, which is not the head of a vocabulary."""
    is_head = not name.startswith(f"{model.base_model_prefix}.")
    if ".pooler." in f".{name}" or (is_head and type(model).__name__.endswith("ForSequenceClassification")):
        return "row"
    if model.config.is_encoder_decoder and re.search(r"\bdecoder\.", name):
        is_of_source = re.search(r"\.(encoder_attn\.(k|v)_proj|EncDecAttention\.(k|v))\.", name)
        return "source" if is_of_source else "target"
    return "source"


def _attention(model: Any, first_trained: float) -> Iterator[Attention]:
    """The attention of the model, whose layers below `first_trained` are passed forwards only."""
    config = model.config.get_text_config()
    heads = first_number(config, "num_attention_heads")
    if not heads:
        return
    head = first_number(config, "head_dim") or first_number(config, "hidden_size") // heads
    widths = (first_number(config, "qk_head_dim") or head) + (first_number(config, "v_head_dim") or head)
    per_pair = FORWARD * heads * widths

    def layers(count: int) -> float:
        """How often the forward pass of a layer is done in `count` layers, a backward pass counting twice."""
        return sum(3 if layer >= first_trained else 1 for layer in range(count))

    if model.config.is_encoder_decoder:
        below = first_number(config, "encoder_layers", "num_layers", "num_hidden_layers")
        above = first_number(config, "decoder_layers", "num_decoder_layers") or below
        yield Attention("source", "source", per_pair * layers(below))
        yield Attention("target", "target", per_pair * layers(above), is_causal=True)
        yield Attention("target", "source", per_pair * layers(above))
        return
    width = first_number(config, "sliding_window", "attention_chunk_size") or None
    # Mistral and similar models have a window in all layers, and no list of their kinds.
    is_windowed = first_number(config, "sliding_window") and getattr(config, "use_sliding_window", True)
    kind_of_all = "sliding_attention" if is_windowed else "full_attention"
    kinds = getattr(config, "layer_types", None) or [kind_of_all] * first_number(config, "num_hidden_layers")
    is_causal = not _is_encoder(model)
    by_window: dict[int | None, float] = {}
    for layer, kind in enumerate(kinds):
        if kind in ATTENTION:
            window = None if kind == "full_attention" else width
            by_window[window] = by_window.get(window, 0) + per_pair * (3 if layer >= first_trained else 1)
    for window, each in by_window.items():
        yield Attention("source", "source", each, is_causal=is_causal, window=window)


def _is_encoder(model: Any) -> bool:
    """Whether each position sees those behind it, by the first layer that says so."""
    if type(model).__name__.endswith("ForCausalLM") or getattr(model.config, "is_decoder", False):
        return False
    told = (getattr(module, "is_causal", None) for module in model.modules())
    return not next((is_causal for is_causal in told if is_causal is not None), False)


def _numel(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _shape(parameter: Any) -> tuple[int, ...]:
    """The whole shape, also of a parameter that ZeRO-3 holds in parts."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
