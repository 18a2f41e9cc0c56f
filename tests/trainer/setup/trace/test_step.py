"""The planner's memory of a step is that of the real step, traced without values."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from shardtune.planner.forecast.of_recipe import DataSize, plan_recipe
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Adapters, Batch, Cluster, Job
from shardtune.planner.memory import gpu_memory
from shardtune.planner.model_shape import shape_of_config
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.setup.trace.step import trace_step
from shardtune.trainer.setup.trace.storages import StorageCounter
from tests.support.shapes import decoder

DECODER = decoder(4)
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": DECODER,
    "mixtral": {**DECODER, "num_local_experts": 4},
    "bert": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "max_position_embeddings": 1024,
    },
    "bart": {
        "d_model": 256,
        "encoder_layers": 3,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 768,
        "decoder_ffn_dim": 768,
        "dropout": 0.0,
    },
}
LORA, CHECKPOINTING = "model.lora.r=8", "model.activation_checkpointing=true"


def _recipe(kind: str, *overrides: str) -> Recipe:
    task = "translation, source_language: en, target_language: de" if kind == "bart" else "language_modeling"
    text = f"{{task: {{kind: {task}}}, model: {{path: x}}, data: {{train: x.txt}}}}"
    return parse_recipe(text, ["engine.deepspeed=zero0", *overrides])


def _config(kind: str) -> Any:
    return transformers.AutoConfig.for_model(kind, vocab_size=4000, **CONFIGS[kind])


def _job(recipe: Recipe, kind: str, tokens: int) -> Job:
    cluster = Cluster(gpu=find_gpu("h100"), gpus_per_node=1)
    job = plan_recipe(recipe, shape_of_config(_config(kind).to_dict()), cluster, DataSize()).largest
    target_tokens = tokens if kind == "bart" else 0
    batch = Batch(rows=4, tokens=tokens, target_tokens=target_tokens, num_micro_batches=2)
    return replace(job, batch=batch, states=replace(job.states, bucket=0))  # a single rank exchanges nothing


@pytest.mark.parametrize("tokens", [256, 1024])
@pytest.mark.parametrize("overrides", [(), (CHECKPOINTING,), (LORA,), (LORA, CHECKPOINTING)])
@pytest.mark.parametrize("kind", ["llama", "bert", "mixtral"])
def test_the_formulas_say_what_the_step_holds(kind: str, overrides: tuple[str, ...], tokens: int) -> None:
    recipe = _recipe(kind, *overrides)
    job = _job(recipe, kind, tokens)
    traced = trace_step(recipe, _config(kind), job)
    assert gpu_memory(job).allocated == pytest.approx(sum(traced.values()), rel=0.1)
    states = sum(traced[part] for part in ("parameters", "gradients", "optimizer"))
    planned = sum(size for name, size in gpu_memory(job).terms.items() if name in STATES)
    assert planned == pytest.approx(states, rel=0.02)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("family", ["llama", "bert", "mixtral"])
def test_the_formulas_say_what_a_quantized_base_holds(family: str, kind: str) -> None:
    recipe = _recipe(family, LORA, f"model.lora.quantize_base={kind}")
    job = _job(recipe, family, 256)
    traced = trace_step(recipe, _config(family), job)
    assert gpu_memory(job).allocated == pytest.approx(sum(traced.values()), rel=0.1)
    planned = sum(size for name, size in gpu_memory(job).terms.items() if name == "weights")
    assert planned == pytest.approx(traced["parameters"], rel=0.02)
    whole = replace(job, adapters=Adapters(rank=8))
    assert planned < gpu_memory(whole).terms["weights"]


STATES = ("weights", "gradients", "master weights", "optimizer states")


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_formulas_hold_in_fp32(kind: str) -> None:
    recipe = _recipe(kind, "engine.precision=fp32")
    job = _job(recipe, kind, 256)
    traced = trace_step(recipe, _config(kind), job)
    assert gpu_memory(job).allocated == pytest.approx(sum(traced.values()), rel=0.1)


def test_logits_that_the_model_changes_are_there_as_a_whole() -> None:
    recipe = _recipe("bart")
    job = _job(recipe, "bart", 1024)
    traced = trace_step(recipe, _config("bart"), job)
    assert gpu_memory(job).allocated == pytest.approx(sum(traced.values()), rel=0.1)


def test_a_smaller_chunk_of_the_loss_takes_less() -> None:
    recipe = _recipe("llama")
    job = _job(recipe, "llama", 1024)
    small = replace(job, software=replace(job.software, loss_chunk=2**20))
    large, less = (sum(trace_step(recipe, _config("llama"), one).values()) for one in (job, small))
    assert less == pytest.approx(gpu_memory(small).allocated, rel=0.1)
    assert less < 0.9 * large


def test_storages_are_counted_once_and_until_they_are_freed() -> None:
    weight = nn.Parameter(torch.ones(1000))
    counter = StorageCounter("activations")
    counter.know("parameters", [weight, weight.detach()])
    with counter:
        product = weight * 2
        view = product[:10]
        del product
        view = view + 1
        counter.kind = "temporary"
        torch.zeros(900)
    assert counter.peak == {"parameters": 4000, "activations": 4040}
    assert view.shape == (10,)
