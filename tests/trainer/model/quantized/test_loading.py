"""A base is quantized weight by weight while it is read, and takes the bytes that were planned."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from shardtune.planner.forecast.of_recipe import job_of
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Cluster
from shardtune.planner.memory import held_states
from shardtune.planner.model_shape import shape_of_config
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model.flops import count_flops
from shardtune.trainer.model.load import load_model
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.model.quantized.formats import FORMATS, rounded
from shardtune.trainer.model.quantized.linear import quantized_layers
from shardtune.trainer.model.quantized.loading import quantizing, settle_quantized
from shardtune.trainer.tasks import task_of
from tests.support.tiny import PLAIN, write_causal

SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512},
    "gpt2": {"n_embd": 128, "n_layer": 2, "n_head": 2},
    "qwen3_moe": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "moe_intermediate_size": 64,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
}


def write_model(folder: Path, kind: str) -> Any:
    """A model with random weights in a folder, with the tokenizer of the tiny causal model."""
    write_causal(folder, PLAIN)
    special = {"bos_token_id": 2, "eos_token_id": 5, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, vocab_size=64, **SIZES[kind], **special)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return model


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    text = f"{{task: {{kind: language_modeling}}, model: {{path: {folder}, lora: {{r: 4}}}}, data: {{train: x.txt}}}}"
    return parse_recipe(text, ["engine.deepspeed=null", "engine.precision=bf16", *overrides])


def load(recipe: Recipe) -> Any:
    """The model as a run loads it."""
    tokenizer = load_tokenizer(recipe)
    return load_model(recipe, task_of(recipe, {}, tokenizer, load_model_config(recipe)), tokenizer)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("quantized", ["nf4", "int8"])
def test_the_linear_layers_are_those_of_the_files_rounded(tmp_path: Path, kind: str, quantized: str) -> None:
    source = write_model(tmp_path, kind)
    model = load(recipe_of(tmp_path, f"model.lora.quantize_base={quantized}"))
    layers = quantized_layers(model)
    linear = {
        name
        for name, module in source.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not source.get_output_embeddings()
    }
    assert {name.removesuffix(".base_layer") for name in layers} == linear
    for name, layer in layers.items():
        weight = source.get_submodule(name.removesuffix(".base_layer")).weight
        if kind == "gpt2":
            weight = weight.T
        assert torch.equal(layer.restored(torch.float32), rounded(weight.detach(), quantized))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    whole = load(recipe_of(tmp_path))
    assert count_flops(model) == count_flops(whole)
    assert len([p for p in model.parameters() if p.requires_grad]) == len(
        [p for p in whole.parameters() if p.requires_grad]
    )


def test_one_weight_at_a_time_is_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, "llama")
    alive: list[int] = []
    seen: list[weakref.ref[Tensor]] = []
    right = FORMATS["nf4"].pack

    def pack(weight: Tensor) -> dict[str, Tensor]:
        seen.append(weakref.ref(weight))
        alive.append(sum(reference() is not None for reference in seen))
        return right(weight)

    monkeypatch.setattr(FORMATS["nf4"], "pack", pack)
    load(recipe_of(tmp_path, "model.lora.quantize_base=nf4"))
    assert len(alive) == 3 * 7 and max(alive) <= 2


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("quantized", ["nf4", "int8"])
def test_the_base_takes_the_bytes_that_the_planner_says(tmp_path: Path, kind: str, quantized: str) -> None:
    source = write_model(tmp_path, kind)
    recipe = recipe_of(tmp_path, f"model.lora.quantize_base={quantized}")
    model = load(recipe)
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    cluster = Cluster(gpu=find_gpu("h100"), gpus_per_node=1)
    planned = held_states(job_of(recipe, shape_of_config(source.config.to_dict()), cluster, "bf16"))["weights"]
    assert planned == pytest.approx(held, rel=0.02)


def test_layers_whose_weights_tell_the_dtype_of_inputs_tell_the_right_one(tmp_path: Path) -> None:
    """T5 casts the inputs of an MLP's second layer to the dtype of its weights."""
    sizes = {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16, "decoder_start_token_id": 0}
    config = transformers.AutoConfig.for_model("t5", vocab_size=50, **sizes)
    torch.manual_seed(0)
    source = transformers.AutoModelForSeq2SeqLM.from_config(config)
    source.save_pretrained(tmp_path)
    layers = [name for name, module in source.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    how = quantizing(config, layers, "nf4", torch.device("cpu"))
    model: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path, **how)
    settle_quantized(model, torch.bfloat16)
    assert len(quantized_layers(model)) == len(layers) == 32
    inputs = torch.arange(5, 12)[None]
    embedded = model.get_input_embeddings()(inputs).detach().requires_grad_()
    loss = model(inputs_embeds=embedded, labels=inputs).loss
    loss.backward()
    whole = source.eval()(inputs_embeds=embedded.detach().float(), labels=inputs).loss
    assert loss.item() == pytest.approx(whole.item(), rel=0.05)
    assert embedded.grad is not None and bool(embedded.grad.isfinite().all()) and bool(embedded.grad.any())
