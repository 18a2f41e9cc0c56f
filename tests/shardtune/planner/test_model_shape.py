"""The planner counts the parameters of each architecture as transformers builds it."""

from typing import Any

import pytest

from shardtune.errors import ConfigError
from shardtune.planner.model_families import FAMILIES
from shardtune.planner.model_shape import shape_of_config, shape_of_sizes

SEQ2SEQ = {
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 160,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "decoder_start_token_id": 0,
}
SMALL: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 8},
    "ministral": {"num_key_value_heads": 2, "head_dim": 24},
    "phi3": {"num_key_value_heads": 2, "pad_token_id": 0},
    "granite": {},
    "smollm3": {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 24},
    "gemma": {"num_key_value_heads": 1, "head_dim": 32},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 32},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 32},
    "olmo2": {"num_key_value_heads": 2},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 80,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 24},
    "gpt2": {"n_positions": 40, "intermediate_size": None},
    "opt": {"ffn_dim": 160, "max_position_embeddings": 40, "word_embed_proj_dim": 64},
    "gpt_neox": {},
    "bloom": {"n_head": 4, "intermediate_size": None},
    "bert": {"max_position_embeddings": 40, "type_vocab_size": 2},
    "roberta": {"max_position_embeddings": 40, "type_vocab_size": 1},
    "xlm-roberta": {"max_position_embeddings": 40, "type_vocab_size": 1},
    "distilbert": {"dim": 64, "hidden_dim": 160, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 40},
    "t5": {"d_kv": 24, "d_ff": 160, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4},
    "mt5": {"d_kv": 24, "d_ff": 160, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4},
    **dict.fromkeys(("bart", "mbart", "marian", "m2m_100"), SEQ2SEQ),
}
COMMON = {
    "vocab_size": 500,
    "hidden_size": 64,
    "d_model": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 160,
}


def _counted(kind: str, head: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """Number of parameters as transformers builds the model, and its config."""
    import torch
    import transformers

    sizes = {key: value for key, value in {**COMMON, **SMALL[kind]}.items() if value is not None}
    if "encoder_layers" in sizes or "d_kv" in sizes or "dim" in sizes:
        drop = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
        sizes = {key: value for key, value in sizes.items() if key not in drop}
    config = transformers.AutoConfig.for_model(kind, **sizes, **more)
    with torch.device("meta"):
        model = getattr(transformers, head).from_config(config)
    return sum(parameter.numel() for parameter in model.parameters()), config.to_dict()


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_parameters_are_those_of_transformers(kind: str) -> None:
    family = FAMILIES[kind]
    head = "AutoModelForCausalLM"
    if family.is_encoder_decoder:
        head = "AutoModelForSeq2SeqLM"
    elif family.is_encoder:
        head = "AutoModelForMaskedLM"
    counted, config = _counted(kind, head)
    assert shape_of_config(config).num_parameters == counted


def test_a_classifier_has_labels_instead_of_logits() -> None:
    counted, config = _counted("bert", "AutoModelForSequenceClassification", num_labels=7)
    assert shape_of_config(config, num_labels=7).num_parameters == counted
    counted, config = _counted("qwen2", "AutoModelForSequenceClassification", num_labels=7)
    assert shape_of_config(config, num_labels=7).num_parameters == counted


def test_of_experts_only_those_count_as_active_that_a_token_is_sent_to() -> None:
    shape = shape_of_config({"model_type": "mixtral", **COMMON, **SMALL["mixtral"]})
    expert = 3 * 64 * 160
    assert shape.num_parameters - shape.num_active == 3 * 2 * expert


def test_sizes_alone_make_a_model_of_so_many_parameters() -> None:
    shape = shape_of_sizes(7e9, 32)
    assert shape.num_parameters == pytest.approx(7e9, rel=1e-4)
    assert shape.hidden % 128 == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": "llama", **COMMON, "vocab_size": None}, "has no vocab_size"),
        ({"model_type": "llama", **COMMON, "hidden_size": 63}, "4 attention heads do not divide the hidden size 63"),
        (
            {"model_type": "llama", **COMMON, "num_hidden_layers": 0},
            "num_hidden_layers: expected a whole number above 0",
        ),
    ],
)
def test_a_config_that_cannot_be_is_one_error(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shape_of_config(config)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden": 4096, "num_heads": 30}, "--heads=30 does not divide"),
        ({"hidden": 4096, "num_kv_heads": 5}, "--kv-heads=5 does not divide"),
        ({"hidden": 65536}, "too small"),
    ],
)
def test_sizes_that_do_not_go_together_are_one_error(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shape_of_sizes(7e9, 32, **sizes)
