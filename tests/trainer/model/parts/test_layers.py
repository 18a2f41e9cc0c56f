"""Embeddings, layers and what is above them are found in every architecture."""

from typing import Any

import pytest
import torch
import transformers

from shardtune.trainer.model.parts.layers import parts_of, remember_new

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
PAIR = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
}
OPT = {**SIZES, "ffn_dim": 16, "word_embed_proj_dim": 16}


def made(kind: str, head: str, **sizes: Any) -> Any:
    with torch.device("meta"):
        return getattr(transformers, f"AutoModelFor{head}").from_config(
            transformers.AutoConfig.for_model(kind, **sizes)
        )


@pytest.mark.parametrize(
    ("kind", "head", "sizes", "stacks", "embeddings", "above"),
    [
        ("bert", "MaskedLM", SIZES, ["bert.encoder.layer"], 5, {"cls"}),
        ("llama", "CausalLM", SIZES, ["model.layers"], 1, {"model.norm", "lm_head"}),
        ("gpt2", "CausalLM", {"n_embd": 16, "n_layer": 3, "n_head": 2}, ["transformer.h"], 2, {"transformer.ln_f"}),
        ("opt", "CausalLM", OPT, ["model.decoder.layers"], 2, {"model.decoder.final_layer_norm"}),
        ("gpt_neox", "CausalLM", SIZES, ["gpt_neox.layers"], 1, {"gpt_neox.final_layer_norm", "lm_head"}),
        ("electra", "TokenClassification", SIZES, ["electra.encoder.layer"], 7, {"classifier"}),
        ("mixtral", "CausalLM", SIZES, ["model.layers"], 1, {"model.norm", "lm_head"}),
        ("bart", "Seq2SeqLM", PAIR, ["model.encoder.layers", "model.decoder.layers"], 7, set()),
        ("albert", "MaskedLM", {**SIZES, "embedding_size": 8}, [], 7, {"albert.encoder", "predictions"}),
    ],
)
def test_parts(
    kind: str, head: str, sizes: dict[str, Any], stacks: list[str], embeddings: int, above: set[str]
) -> None:
    model = made(kind, head, **sizes)
    parts = parts_of(model)
    assert [stack.name for stack in parts.stacks] == stacks
    assert len(parts.embeddings) == embeddings
    others = [name for name, _ in model.named_parameters() if parts.num_above(name) == 0]
    assert all(name.startswith(tuple(above)) for name in others) and len(others) >= len(above)


def test_encoder_and_decoder_count_their_own_layers() -> None:
    parts = parts_of(made("bart", "Seq2SeqLM", **PAIR))
    depths = {
        (stack, layer): parts.num_above(f"model.{stack}.layers.{layer}.fc1.weight")
        for stack, num in (("encoder", 3), ("decoder", 2))
        for layer in range(num)
    }
    assert depths == {
        ("encoder", 0): 3,
        ("encoder", 1): 2,
        ("encoder", 2): 1,
        ("decoder", 0): 2,
        ("decoder", 1): 1,
    }
    assert parts.num_above("model.shared.weight") == 4


def test_what_is_new_is_above_all_layers_wherever_it_is() -> None:
    model = made("bert", "MaskedLM", **SIZES)
    remember_new(model, {"bert.encoder.layer.0.output.dense.bias"})
    assert parts_of(model).num_above("bert.encoder.layer.0.output.dense.bias") == 0
