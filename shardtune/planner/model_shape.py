"""The shape of a model: what its memory and its operations are counted from; read from a config or given by sizes."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from shardtune.errors import ConfigError
from shardtune.planner.model_families import FAMILIES, Family
from shardtune.recipe.explain import did_you_mean

Side = Literal["source", "target"]
DROPOUTS = ("hidden_dropout_prob", "hidden_dropout", "resid_pdrop", "dropout", "dropout_rate")
"""Names of the probability with which outputs of layers are dropped out."""
ACTIVATION_TENSORS = {"relu": 0, "gelu_new": 4, "gelu_fast": 4, "gelu_python": 4, "quick_gelu": 2}
"""Names of activations in configs that keep another number of tensors than their input."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Equal layers of a transformer."""

    num: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    mlp_width: int
    """Width of the hidden layer of an MLP, or of an expert."""
    is_gated: bool
    """Whether the MLP has a third matrix, whose output multiplies the hidden layer (SwiGLU, GeGLU)."""
    is_causal: bool
    side: Side = "source"
    """Which tokens of an encoder-decoder pass through; all of any other model's are `source`."""
    has_cross_attention: bool = False
    window: int | None = None
    """How many keys a query of the windowed layers sees at most."""
    num_windowed: int = 0
    num_experts: int = 1
    experts_per_token: int = 1
    shared_width: int = 0
    """Width of the expert that every token passes through."""
    norms: int = 2
    """Normalizations in a layer."""
    is_rms_norm: bool = True
    """Whether they are RMSNorms, which the models of transformers compute in fp32 by several operations."""
    scales_in_fp32: bool = False
    """Whether RMSNorms multiply by their weights in fp32 too (Gemma)."""
    norms_queries: bool = False
    """Whether queries and keys are normalized."""
    activation_tensors: int = 1
    """Tensors as wide as the MLP that its activation keeps: of ReLU none but its output, of most functions the input;
    of GELU's approximation that transformers computes by single operations (gelu_new) more."""
    small: int = 0
    """Parameters in a layer that are not in these matrices: norms, biases, routers."""

    @property
    def query_width(self) -> int:
        return self.num_heads * self.head_size

    @property
    def kv_width(self) -> int:
        return self.num_kv_heads * self.head_size

    @property
    def attention_weights(self) -> int:
        """Weights of the four projections of a layer, and of the four of its cross-attention."""
        once = 2 * self.hidden * (self.query_width + self.kv_width)
        return once * (2 if self.has_cross_attention else 1)

    @property
    def expert_weights(self) -> int:
        """Weights of an MLP of a layer, or of an expert."""
        return (3 if self.is_gated else 2) * self.hidden * self.mlp_width

    @property
    def shared_weights(self) -> int:
        return (3 if self.is_gated else 2) * self.hidden * self.shared_width

    @property
    def matrices(self) -> int:
        """Weights of the linear layers of a layer."""
        return self.attention_weights + self.expert_weights * self.num_experts + self.shared_weights

    @property
    def separate(self) -> int:
        """Those of linear layers of their own: experts share a tensor, which adapters and quantization leave alone."""
        experts = self.expert_weights if self.num_experts == 1 else 0
        return self.attention_weights + experts + self.shared_weights

    @property
    def sizes_of_matrices(self) -> list[int]:
        """Elements of each tensor of weights of a layer: an expert's are in those of all experts, with the gate's."""
        attention = 2 * [self.hidden * self.query_width] + 2 * [self.hidden * self.kv_width]
        halves = 2 if self.is_gated else 1
        experts = [self.hidden * self.mlp_width * self.num_experts]
        if self.num_experts > 1:
            experts.append(experts[0] * halves)
        else:
            experts *= halves + 1
        shared = [self.hidden * self.shared_width] * (halves + 1) if self.shared_width else []
        return attention * (2 if self.has_cross_attention else 1) + experts + shared

    @property
    def active(self) -> int:
        """Those that a token is multiplied by."""
        return self.attention_weights + self.expert_weights * self.experts_per_token + self.shared_weights

    @property
    def num_parameters(self) -> int:
        """Parameters of all of these layers."""
        return self.num * (self.matrices + self.small)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A model of one or two stacks of layers, between embeddings and a last layer."""

    name: str
    stacks: tuple[Layers, ...]
    hidden: int
    vocabulary: int
    embeddings: int
    """Parameters of what is looked up: tokens, positions, types."""
    end_norms: int = 1
    """Normalizations outside of the layers."""
    others: int = 0
    """Parameters outside of the layers and the embeddings: final norms, poolers, biases of the last layer."""
    is_tied: bool = False
    """Whether the last layer's weights are the embedding's."""
    has_dropout: bool = False
    """Whether the outputs of layers are dropped out, if the recipe does not say."""
    changes_logits: bool = False
    """Whether logits are changed after the last layer: biases, a soft cap."""
    num_labels: int | None = None
    """The width of the last layer of a classifier; None if the last layer computes logits of the vocabulary."""

    @property
    def width(self) -> int:
        """Number of logits of a token, or of a row."""
        return self.vocabulary if self.num_labels is None else self.num_labels

    @property
    def head(self) -> int:
        """Parameters of the last layer that are not the embedding's too."""
        return 0 if self.is_tied and self.num_labels is None else self.hidden * self.width

    @property
    def num_parameters(self) -> int:
        return self.embeddings + self.head + self.others + sum(stack.num_parameters for stack in self.stacks)

    @property
    def num_active(self) -> int:
        """Parameters that are used for a token: those of the experts it is not sent to are left out."""
        return self.num_parameters - sum(stack.num * (stack.matrices - stack.active) for stack in self.stacks)

    @property
    def num_layers(self) -> int:
        return sum(stack.num for stack in self.stacks)

    @property
    def num_small(self) -> int:
        """Parameters of the layers that are in vectors: norms and biases."""
        return sum(stack.num * stack.small for stack in self.stacks)

    @property
    def largest_parameter(self) -> int:
        """Elements of the largest tensor of weights."""
        return max([self.hidden * self.vocabulary, *(max(stack.sizes_of_matrices) for stack in self.stacks)])

    @property
    def is_encoder_decoder(self) -> bool:
        return any(stack.has_cross_attention for stack in self.stacks)


def shape_of_config(config: Mapping[str, Any], *, num_labels: int | None = None, name: str = "") -> ModelShape:
    """The shape of the model whose config.json this is, with the last layer of a classifier if num_labels is given.

    Raises ConfigError if the architecture is not known to the planner, or the config lacks a size.
    """
    if "text_config" in config and "hidden_size" not in config:  # a model of several modes; its text is what is trained
        config = {**config["text_config"], "tie_word_embeddings": config.get("tie_word_embeddings", True)}
    kind = str(config.get("model_type", ""))
    if kind not in FAMILIES:
        raise ConfigError(
            f"model.path: the planner does not know the architecture {kind!r}{did_you_mean(kind, FAMILIES)}; known: "
            f"{', '.join(FAMILIES)}; or give --params and --layers"
        )
    shape = _ConfigReader(config, FAMILIES[kind], kind).shape(num_labels)
    return replace(shape, name=name or kind)


def shape_of_sizes(
    num_parameters: float,
    num_layers: int,
    *,
    hidden: int | None = None,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    vocabulary: int = 128_256,
) -> ModelShape:
    """The shape of a decoder like Llama's with about so many parameters: what is not given is chosen as there.

    Heads of 128, an MLP as wide as the parameters leave room for. Raises ConfigError for sizes that do not go together.
    """
    if num_parameters <= 0 or num_layers <= 0:
        raise ConfigError("--params and --layers must be above 0")
    if hidden is None:  # 12 h^2 weights in a layer, 2 h V around them
        root = math.sqrt((2 * vocabulary) ** 2 + 48 * num_layers * num_parameters)
        hidden = max(128, round((root - 2 * vocabulary) / (24 * num_layers) / 128) * 128)
    num_heads = num_heads or max(1, hidden // 128)
    if hidden % num_heads:
        raise ConfigError(f"--heads={num_heads} does not divide the hidden size {hidden}; give another number")
    num_kv_heads = num_kv_heads or num_heads
    if num_heads % num_kv_heads:
        raise ConfigError(f"--kv-heads={num_kv_heads} does not divide the {num_heads} heads; give another number")
    head_size = hidden // num_heads
    attention = 2 * hidden * (num_heads + num_kv_heads) * head_size
    left = (num_parameters - 2 * vocabulary * hidden) / num_layers - attention
    if left <= 0:
        raise ConfigError(
            f"--params={num_parameters / 1e9:g}B is too small for {num_layers} layers of hidden size {hidden} with a "
            f"vocabulary of {vocabulary}"
        )
    layers = Layers(
        num=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        mlp_width=max(1, round(left / (3 * hidden))),
        is_gated=True,
        is_causal=True,
        small=2 * hidden,
    )
    return ModelShape(
        name=f"{num_parameters / 1e9:g}B",
        stacks=(layers,),
        hidden=hidden,
        vocabulary=vocabulary,
        embeddings=vocabulary * hidden,
        others=hidden,
    )


class _ConfigReader:
    """Reads the sizes of one config by the names that its family may use."""

    def __init__(self, config: Mapping[str, Any], family: Family, kind: str) -> None:
        self._config, self._family, self._kind = config, family, kind
        self._hidden = self._number("hidden_size", "n_embd", "d_model", "dim")

    def shape(self, num_labels: int | None) -> ModelShape:
        config, family, hidden = self._config, self._family, self._hidden
        vocabulary = self._number("vocab_size")
        embedded = int(config.get("word_embed_proj_dim") or config.get("embedding_size") or hidden)
        stacks = tuple(self._stacks())
        positions = 0
        if family.positions_offset is not None:
            positions = self._number("max_position_embeddings", "n_positions") + family.positions_offset
        tables = positions * (2 if family.is_encoder_decoder and family.separate_positions else 1)
        embeddings = (
            vocabulary * embedded
            + tables * hidden
            + int(config.get("type_vocab_size") or 0) * hidden * (family.has_types)
        )
        norm = hidden * (2 if family.norm_has_bias else 1)
        others = norm * (family.embedding_norms + family.final_norms)
        others += sum(self._relative_positions(stack) for stack in stacks)
        if embedded != hidden:
            others += 2 * hidden * embedded
        if num_labels is not None:
            others += family.labels_hidden * (hidden * hidden + hidden) + num_labels * family.labels_bias
        else:
            others += family.head_dense * (hidden * hidden + hidden + norm) + vocabulary * family.head_bias
        return ModelShape(
            name=self._kind,
            stacks=stacks,
            hidden=hidden,
            vocabulary=vocabulary,
            embeddings=embeddings,
            end_norms=family.embedding_norms + family.final_norms,
            others=others,
            is_tied=bool(config.get("tie_word_embeddings", family.is_tied)),
            has_dropout=any(config.get(name) for name in DROPOUTS),
            changes_logits=family.changes_logits or bool(config.get("final_logit_softcapping")),
            num_labels=num_labels,
        )

    def _stacks(self) -> Iterator[Layers]:
        if not self._family.is_encoder_decoder:
            yield self._layers(
                self._number("num_hidden_layers", "n_layer", "n_layers"),
                self._number("num_attention_heads", "n_head", "n_heads"),
                self._number("intermediate_size", "ffn_dim", "n_inner", "hidden_dim", default=4 * self._hidden),
                is_causal=not self._family.is_encoder,
            )
            return
        for part, side in (("encoder", "source"), ("decoder", "target")):
            num = self._number(f"{part}_layers", *(["num_decoder_layers"] * (part == "decoder")), "num_layers")
            layers = self._layers(
                num,
                self._number(f"{part}_attention_heads", "num_heads"),
                self._number(f"{part}_ffn_dim", "d_ff"),
                is_causal=part == "decoder",
            )
            yield replace(layers, side="source") if side == "source" else self._with_cross_attention(layers)

    def _with_cross_attention(self, layers: Layers) -> Layers:
        family, hidden = self._family, self._hidden
        added = 4 * hidden * (family.qkv_bias and family.out_bias) + hidden * (2 if family.norm_has_bias else 1)
        return replace(
            layers, side="target", has_cross_attention=True, norms=layers.norms + 1, small=layers.small + added
        )

    def _layers(self, num: int, num_heads: int, mlp_width: int, *, is_causal: bool) -> Layers:
        config, family, hidden = self._config, self._family, self._hidden
        if num_heads <= 0 or (hidden % num_heads and not config.get("head_dim") and not config.get("d_kv")):
            raise ConfigError(f"config.json: {num_heads} attention heads do not divide the hidden size {hidden}")
        head_size = int(config.get("head_dim") or config.get("d_kv") or hidden // num_heads)
        num_experts = self._optional("num_local_experts", "num_experts") if family.has_experts else 0
        kinds = config.get("layer_types") or ()
        window = self._optional("sliding_window") or None
        num_windowed = sum(kind == "sliding_attention" for kind in kinds)
        if window and not kinds and config.get("use_sliding_window", True):
            num_windowed = num
        layers = Layers(
            num=num,
            hidden=hidden,
            num_heads=num_heads,
            num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
            head_size=head_size,
            mlp_width=(self._optional("moe_intermediate_size") or mlp_width) if num_experts else mlp_width,
            is_gated=family.is_gated or str(config.get("feed_forward_proj", "")).startswith("gated"),
            is_causal=is_causal,
            window=window if num_windowed else None,
            num_windowed=num_windowed if window else 0,
            num_experts=max(1, num_experts),
            experts_per_token=self._optional("num_experts_per_tok") or 1 if num_experts else 1,
            shared_width=self._optional("shared_expert_intermediate_size") if num_experts else 0,
            norms=family.norms,
            is_rms_norm=not family.norm_has_bias,
            scales_in_fp32=family.scales_in_fp32,
            norms_queries=family.query_norm != "none",
            activation_tensors=self._activation_tensors(),
        )
        return replace(layers, small=self._small(layers, num_experts))

    def _small(self, layers: Layers, num_experts: int) -> int:
        """Parameters of a layer's norms, biases and router."""
        config, family, hidden = self._config, self._family, self._hidden
        small = family.norms * hidden * (2 if family.norm_has_bias else 1)
        has_bias = bool(config.get("attention_bias", False)) and not family.ignores_attention_bias
        if family.qkv_bias or has_bias:
            small += layers.query_width + 2 * layers.kv_width
        if family.out_bias or has_bias:
            small += hidden
        if family.mlp_bias or config.get("mlp_bias"):
            small += layers.mlp_width * (2 if layers.is_gated else 1) + hidden
        small += {"none": 0, "head": 2 * layers.head_size, "whole": layers.query_width + layers.kv_width}[
            family.query_norm
        ]
        if num_experts:
            small += hidden * num_experts + (hidden if layers.shared_width else 0)
        return small

    def _activation_tensors(self) -> int:
        names = ("hidden_act", "activation_function", "hidden_activation", "dense_act_fn", "activation")
        name = next((str(value) for key in names if (value := self._config.get(key))), "gelu")
        if "gelu" in str(self._config.get("feed_forward_proj", "")):
            name = "gelu_new"  # what transformers takes for gated-gelu
        return ACTIVATION_TENSORS.get(name, 1)

    def _relative_positions(self, layers: Layers) -> int:
        if not self._family.has_relative_positions:
            return 0
        return self._number("relative_attention_num_buckets", default=32) * layers.num_heads

    def _optional(self, *names: str) -> int:
        return next((int(value) for name in names if (value := self._config.get(name)) is not None), 0)

    def _number(self, *names: str, default: int | None = None) -> int:
        for name in names:
            if (value := self._config.get(name)) is not None:
                if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                    raise ConfigError(f"config.json: {name}: expected a whole number above 0, got {value!r}")
                return value
        if default is not None:
            return default
        raise ConfigError(f"config.json of a model of type {self._kind!r} has no {names[0]}; add it")
