"""The planner's bytes of states and of collectives are those that the engines hold and send, at any world size."""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tests.support.runs  # imports what each forked rank would
from shardtune.ds_config.cluster import Cluster as RankLayout
from shardtune.ds_config.resolve import ds_config_of, zero_stage
from shardtune.planner.frozen import frozen_of
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Batch, Cluster, Job, Software
from shardtune.planner.memory import bucket_bytes, gradient_bytes, held_states, host_states, own_gradient_bytes
from shardtune.planner.model_shape import shape_of_config
from shardtune.planner.network import step_traffic
from shardtune.planner.strategy import states_of
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import FOLDER
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import sharded_birth
from shardtune.trainer.model.load import DTYPES
from shardtune.trainer.model.parts.freeze import freeze
from tests.support.fake_ranks import as_rank_zero, engine_of, record_collectives, tensor_bytes

assert tests.support.runs
KINDS = {"all_reduce": "all_reduce", "all_gather_into_tensor": "gather", "reduce_scatter_tensor": "reduce"}
FEW = 60_000
"""Bytes: smaller collectives are of norms, flags and vectors, and are counted by their bytes only."""
LLAMA: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 768,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "untied": ("llama", {**LLAMA, "vocab_size": 2000}),
    "tied": ("llama", {**LLAMA, "vocab_size": 12000, "tie_word_embeddings": True}),
    "experts": ("mixtral", {**LLAMA, "vocab_size": 2000, "num_local_experts": 4}),
    "bert": (
        "bert",
        {
            "hidden_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
            "vocab_size": 3000,
        },
    ),
    "t5": (
        "t5",
        {"d_model": 256, "d_kv": 32, "num_heads": 8, "d_ff": 768, "num_layers": 2, "vocab_size": 3000},
    ),
}
"""A causal model, whose last layer may be the embedding; an encoder; a mixture of experts; an encoder-decoder."""
AUTO_MODELS = {"bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}


def _recipe(strategy: str, precision: str, *overrides: str) -> Recipe:
    text = "{task: {kind: language_modeling}, model: {path: x}, data: {train: x.txt}}"
    return parse_recipe(text, [f"engine.deepspeed={strategy}", f"engine.precision={precision}", *overrides])


def _config(model: str) -> Any:
    kind, sizes = CONFIGS[model]
    return transformers.AutoConfig.for_model(kind, **sizes)


def _ds_config(recipe: Recipe, model: str, world_size: int) -> dict[str, Any] | None:
    layout = RankLayout(world_size, 8, None)
    return ds_config_of(recipe, hidden_size=_config(model).hidden_size, cluster=layout)


@dataclass(frozen=True)
class Seen:
    """What a rank holds and sends in a step."""

    held: tuple[float, float]
    """Bytes of tensors in floating point after the backward passes, and after the update."""
    sent: dict[str, float]
    """Bytes of the whole tensors of collectives: `all_reduce`, `gather`, `reduce`."""
    num_sent: dict[str, float]
    """Number of these collectives."""


def _second_step(ranks: Ranks, recipe: Recipe, model_name: str) -> Seen:
    """What the engine holds and sends in the second step."""
    collectives = record_collectives()
    before = tensor_bytes()
    model, engine = _engine(ranks, recipe, model_name)
    inputs: dict[str, Any] = {"input_ids": torch.zeros(1, 4, dtype=torch.long)}
    if "bert" not in model_name:
        inputs["use_cache"] = False
    if "t5" in model_name:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    if recipe.regularize.l2_sp:
        engine.hold_weights()
    for step in range(2):
        collectives.clear()
        engine.begin_step(step, num_micro_batches=2)
        for _ in range(2):
            logits = model(**inputs).logits
            engine.backward(logits.float().sum(), num_targets=4)
            del logits
        backward = tensor_bytes() - before
        engine.step(lr=1e-3)
        if recipe.train.ema_decay is not None:
            engine.average(recipe.train.ema_decay)
    update = tensor_bytes() - before
    first, second = (float(found["float32"] + found["bfloat16"]) for found in (backward, update))
    return Seen((first, second), *_totals(collectives))


def _engine(ranks: Ranks, recipe: Recipe, model_name: str) -> tuple[Any, Any]:
    """What computes a forward pass, and the engine."""
    ds_config = _ds_config(recipe, model_name, ranks.world_size)
    config = _config(model_name)
    auto_model = getattr(transformers, AUTO_MODELS.get(config.model_type, "AutoModelForCausalLM"))
    with sharded_birth(ds_config) if ds_config and zero_stage(ds_config) == 3 else nullcontext():
        model = auto_model.from_config(config, dtype=DTYPES[recipe.engine.precision])
    if recipe.model.freeze:
        freeze(model, recipe.model.freeze)
    return engine_of(model, recipe, ds_config, ranks)


def _totals(collectives: Sequence[tuple[str, int]]) -> tuple[dict[str, float], dict[str, float]]:
    """Kind -> bytes, and kind -> number of those that are not small."""
    sent: dict[str, float] = dict.fromkeys(KINDS.values(), 0.0)
    num_sent = dict(sent)
    for name, size in collectives:
        if name in KINDS:
            sent[KINDS[name]] += size
            num_sent[KINDS[name]] += size > FEW
    return sent, num_sent


def _job(recipe: Recipe, model_name: str, world_size: int) -> Job:
    states = states_of(
        _ds_config(recipe, model_name, world_size), recipe.engine.precision, recipe.engine.communication_data_type
    )
    if recipe.optim.states == "bf16":
        states = replace(states, moments=4)
    if recipe.regularize.l2_sp:
        states = replace(states, held=states.weight)
    if recipe.train.ema_decay is not None:
        states = replace(states, average=4)
    shape = shape_of_config(_config(model_name).to_dict())
    return Job(
        shape=shape,
        frozen=frozen_of(recipe.model.freeze, shape),
        states=states,
        software=Software(),
        batch=Batch(rows=1, tokens=4, target_tokens=4, num_micro_batches=2),
        cluster=Cluster(gpu=find_gpu("h100"), num_nodes=world_size // 8),
        precision=recipe.engine.precision,
    )


def _planned(job: Job) -> Seen:
    """What the planner says of the same step; here GPU and host are one memory."""
    states, held, host = job.states, held_states(job), host_states(job)
    kept = sum(held.values()) + sum(host.values()) - gradient_bytes(job)
    backward = kept + own_gradient_bytes(job)
    if math.isinf(states.num_buckets):
        backward += bucket_bytes(job)
    update = kept + (0 if states.frees_gradients else own_gradient_bytes(job)) - held["second copy of weights"]
    if states.offloads_optimizer and not states.shards_weights and not states.views_gradients:
        update -= host["gradients"] / 2
    sent: dict[str, float] = dict.fromkeys(KINDS.values(), 0.0)
    num_sent = dict(sent)
    for traffic in step_traffic(job):
        kind = "gather" if "gather" in traffic.name else "all_reduce" if traffic.passes == 2 else "reduce"
        sent[kind] += traffic.num_bytes
        num_sent[kind] += traffic.num
    return Seen((backward, update), sent, num_sent)


STRATEGIES = ("zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "zero3_hpz", "null")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("model", "precision", "world_size"),
    [
        ("tied", "bf16", 64),
        ("bert", "bf16", 8),
        ("experts", "bf16", 512),
        ("t5", "bf16", 64),
        ("tied", "fp32", 8),
        ("bert", "fp32", 64),
    ],
)
def test_rank_zero_holds_and_sends_what_is_planned(strategy: str, model: str, precision: str, world_size: int) -> None:
    recipe = _recipe(strategy, precision)
    seen = as_rank_zero(_second_step, recipe, model, world_size=world_size)
    _compare(seen, _planned(_job(recipe, model, world_size)))


@pytest.mark.parametrize("strategy", ["zero0", "zero1", "zero2", "zero3", "null"])
def test_gradients_are_sent_in_the_precision_that_the_recipe_asks_for(strategy: str) -> None:
    other = "bf16" if strategy == "null" else "fp32"
    recipe = _recipe(strategy, "bf16", f"engine.communication_data_type={other}")
    seen = as_rank_zero(_second_step, recipe, "untied", world_size=8)
    _compare(seen, _planned(_job(recipe, "untied", 8)))


@pytest.mark.parametrize("strategy", ["zero0", "zero1", "zero2", "zero3", "null"])
def test_moments_in_bf16_take_half(strategy: str) -> None:
    recipe = _recipe(strategy, "bf16", "optim.states=bf16")
    seen = as_rank_zero(_second_step, recipe, "untied", world_size=8)
    _compare(seen, _planned(_job(recipe, "untied", 8)))


@pytest.mark.parametrize("strategy", ["zero0", "zero1", "zero2_offload", "zero3", "null"])
def test_pretrained_values_are_kept_for_what_a_rank_updates(strategy: str) -> None:
    recipe = _recipe(strategy, "bf16", "regularize.l2_sp=0.1")
    seen = as_rank_zero(_second_step, recipe, "untied", world_size=8)
    _compare(seen, _planned(_job(recipe, "untied", 8)))


@pytest.mark.parametrize("strategy", ["zero0", "zero2", "zero3", "null"])
def test_what_is_frozen_has_no_states_and_is_not_sent(strategy: str) -> None:
    recipe = _recipe(strategy, "bf16", "model.freeze=[embeddings, 'layers:0']")
    seen = as_rank_zero(_second_step, recipe, "untied", world_size=8)
    _compare(seen, _planned(_job(recipe, "untied", 8)))


@pytest.mark.parametrize("strategy", ["zero0", "zero1", "zero2", "zero3", "null"])
def test_an_average_of_the_weights_is_divided_as_the_moments_are(strategy: str) -> None:
    recipe = _recipe(strategy, "bf16", "train.ema_decay=0.9")
    seen = as_rank_zero(_second_step, recipe, "untied", world_size=8)
    _compare(seen, _planned(_job(recipe, "untied", 8)))


def test_weights_that_are_not_used_again_soon_are_gathered_twice(tmp_path: Path) -> None:
    ds_config = {**json.loads((FOLDER / "zero3.json").read_text(encoding="utf-8"))}
    ds_config["zero_optimization"] |= {"stage3_max_reuse_distance": 0, "stage3_max_live_parameters": 0}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(ds_config), encoding="utf-8")
    recipe = _recipe(str(path), "bf16")
    seen = as_rank_zero(_second_step, recipe, "untied", world_size=8)
    assert seen.sent == pytest.approx(_planned(_job(recipe, "untied", 8)).sent, rel=0.02, abs=2000)


def _compare(seen: Seen, planned: Seen) -> None:
    assert seen.held == pytest.approx(planned.held, rel=0.02)
    assert seen.sent == pytest.approx(planned.sent, rel=0.02, abs=2000)
    assert seen.num_sent == pytest.approx(planned.num_sent, rel=0.02)
