"""The operations of a step are those that torch counts, and those of the published formulas."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from shardtune.recipe.model.lora import LoraConfig
from shardtune.trainer.model.flops import Attention, ModelFlops, count_flops

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
DISTIL = {"vocab_size": 96, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64}
EXPERTS = SMALL | {"num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
T5 |= {"decoder_start_token_id": 0, "pad_token_id": 0}
BART = {"vocab_size": 96, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "max_position_embeddings": 64}
BART |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
MODELS: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "CausalLM", SMALL),
    ("llama", "CausalLM", SMALL | {"tie_word_embeddings": True}),
    ("gpt2", "CausalLM", GPT2),
    ("gemma3_text", "CausalLM", SMALL | {"head_dim": 16, "sliding_window": 64}),
    ("mixtral", "CausalLM", EXPERTS),
    ("qwen2_moe", "CausalLM", EXPERTS | {"shared_expert_intermediate_size": 48}),
    ("bert", "TokenClassification", SMALL),
    ("bert", "SequenceClassification", SMALL),
    ("bert", "MaskedLM", SMALL),
    ("distilbert", "SequenceClassification", DISTIL),
    ("modernbert", "TokenClassification", SMALL | {"local_attention": 256}),
    ("t5", "Seq2SeqLM", T5),
    ("bart", "Seq2SeqLM", BART),
    ("m2m_100", "Seq2SeqLM", BART | {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}),
]
LENGTH, TARGETS = 24, 10


def model_of(name: str, kind: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **settings)
    of_kind = getattr(transformers, f"AutoModelFor{kind}")
    return of_kind.from_config(config, attn_implementation="eager", experts_implementation="eager")


def counted_by_torch(model: Any) -> int:
    """Operations of one row's step with whole squares of scores, as eager attention computes them."""
    inputs = {"input_ids": torch.full((1, LENGTH), 7)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.full((1, TARGETS), 7)
    with FlopCounterMode(display=False) as counter:
        model(**inputs).logits.float().sum().backward()
    return int(counter.get_total_flops())


def counted_by_us(model: Any) -> float:
    """The same operations; attention that is causal is counted by the half that is needed."""
    flops = count_flops(model)
    whole = tuple(Attention(part.queries, part.keys, part.per_pair) for part in flops.attention)
    tokens, targets = ([LENGTH + TARGETS], [TARGETS]) if model.config.is_encoder_decoder else ([LENGTH], [LENGTH])
    squares = ModelFlops(flops.per_weight, whole)
    return squares.of_rows(np.array(tokens), np.array(targets), is_encoder_decoder=model.config.is_encoder_decoder)


@pytest.mark.parametrize(("name", "kind", "settings"), MODELS)
def test_a_training_step_needs_what_torch_counts(name: str, kind: str, settings: dict[str, Any]) -> None:
    model = model_of(name, kind, settings)
    assert counted_by_us(model) == counted_by_torch(model)


@pytest.mark.parametrize("trained", ["layers.2.", "layers.1.", "lm_head"])
def test_frozen_layers_need_no_gradient_of_their_weights_and_lower_ones_none_at_all(trained: str) -> None:
    model = model_of("llama", "CausalLM", SMALL)
    whole = counted_by_us(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = trained in name
    # The first trained layer's q, k and v pass no gradient on, which is not worth a special case.
    assert counted_by_us(model) == pytest.approx(counted_by_torch(model), rel=0.07)
    assert counted_by_us(model) < 0.8 * whole


def test_lora_needs_four_operations_for_each_frozen_weight_and_token() -> None:
    from peft import get_peft_model

    settings = SMALL | {"num_hidden_layers": 12, "hidden_size": 64, "intermediate_size": 256}
    model = model_of("llama", "CausalLM", settings)
    linear = sum(p.numel() for n, p in model.named_parameters() if "proj" in n or "lm_head" in n)
    adapted: Any = get_peft_model(model, _peft(LoraConfig(r=1)))
    ours = count_flops(adapted.base_model.model)
    per_token = ours.per_weight["source"] + ours.per_weight["loss"]
    assert per_token == pytest.approx(4 * linear, rel=0.05)


def _peft(lora: LoraConfig) -> Any:
    import peft

    return peft.LoraConfig(r=lora.r, target_modules="all-linear", task_type="CAUSAL_LM")


def test_full_training_needs_six_operations_for_each_weight_and_token_and_the_attention_of_palm() -> None:
    """6N + 12 L H Q T, and half of the latter where a token sees only those before it (PaLM, appendix B)."""
    model = model_of("llama", "CausalLM", SMALL)
    weights = sum(p.numel() for n, p in model.named_parameters() if "norm" not in n and "embed" not in n)
    flops, length = count_flops(model), 48
    needed = flops.of_rows(np.array([length]), np.array([length]), is_encoder_decoder=False)
    layers, heads, width = 3, 4, 8
    attention = 12 * layers * heads * width * length * (length + 1) / 2
    assert needed == 6 * weights * length + attention


def test_packed_rows_need_the_attention_of_each_row_alone() -> None:
    flops = count_flops(model_of("llama", "CausalLM", SMALL))
    rows = flops.of_rows(np.array([10, 30]), np.array([10, 30]), is_encoder_decoder=False)
    alone = [flops.of_rows(np.array([n]), np.array([n]), is_encoder_decoder=False) for n in (10, 30)]
    assert rows == sum(alone) < flops.of_rows(np.array([40]), np.array([40]), is_encoder_decoder=False)


def test_a_window_of_all_layers_counts_though_no_list_names_their_kinds() -> None:
    (windowed,) = count_flops(model_of("mistral", "CausalLM", SMALL | {"sliding_window": 8})).attention
    (whole,) = count_flops(model_of("mistral", "CausalLM", SMALL | {"sliding_window": None})).attention
    assert (windowed.window, whole.window, windowed.per_pair) == (8, None, whole.per_pair)


def test_a_window_bounds_what_a_token_sees() -> None:
    causal = Attention("source", "source", 1.0, is_causal=True, window=3)
    lengths = np.array([5.0])
    assert causal.num_pairs(lengths, lengths) == 1 + 2 + 3 + 3 + 3
    assert Attention("source", "source", 1.0, is_causal=True).num_pairs(lengths, lengths) == 15
