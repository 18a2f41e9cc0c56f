"""The planner's bytes of weights, gradients and optimizer states are those that DeepSpeed holds, at any world size."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers

import tests.support.runs  # imports what each forked rank would
from shardtune.ds_config.resolve import ds_config_of, zero_stage
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Batch, Cluster, Job, Software
from shardtune.planner.memory import held_states, host_states
from shardtune.planner.model_shape import ModelShape, shape_of_config
from shardtune.planner.strategy import states_of
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine, sharded_birth
from shardtune.trainer.engine.optimizers import adamw
from shardtune.trainer.model.load import DTYPES
from tests.support.fake_ranks import as_rank_zero, tensor_bytes

assert tests.support.runs
CONFIG = transformers.LlamaConfig(
    vocab_size=2000,
    hidden_size=256,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=4,
    intermediate_size=768,
)


def _recipe(strategy: str, precision: str) -> Recipe:
    text = "{task: {kind: language_modeling}, model: {path: x}, data: {train: x.txt}}"
    return parse_recipe(text, [f"engine.deepspeed={strategy}", f"engine.precision={precision}"])


def _held(ranks: Ranks, recipe: Recipe) -> tuple[float, float]:
    """Bytes of tensors in floating point after the backward passes of the second step, and after its update."""
    ds_config = ds_config_of(recipe, hidden_size=CONFIG.hidden_size)
    assert ds_config is not None
    before = tensor_bytes()
    with sharded_birth(ds_config) if zero_stage(ds_config) == 3 else nullcontext():
        model = transformers.AutoModelForCausalLM.from_config(CONFIG, dtype=DTYPES[recipe.engine.precision])
    engine = DeepSpeedEngine(model, ds_config, lambda model: adamw(model, recipe.optim), ranks=ranks, seed=0)
    tokens = torch.zeros(1, 4, dtype=torch.long)
    for step in range(2):
        engine.begin_step(step, num_micro_batches=2)
        for _ in range(2):
            logits = engine._engine(input_ids=tokens, use_cache=False).logits
            engine.backward(logits.float().sum(), num_targets=4)
            del logits
        backward = tensor_bytes() - before
        engine.step(lr=1e-3)
    update = tensor_bytes() - before
    return tuple(float(found["float32"] + found["bfloat16"]) for found in (backward, update))  # type: ignore[return-value]


def _planned(recipe: Recipe, shape: ModelShape, world_size: int) -> tuple[float, float]:
    """What the planner says of the same instants; here GPU and host are one memory."""
    states = states_of(ds_config_of(recipe, hidden_size=CONFIG.hidden_size), recipe.engine.precision)
    cluster = Cluster(gpu=find_gpu("h100"), num_nodes=world_size // 8)
    job = Job(shape=shape, states=states, software=Software(), batch=Batch(rows=1, tokens=4), cluster=cluster)
    held, host = held_states(job), host_states(job)
    backward = sum(held.values()) + sum(host.values())
    freed = held["gradients"] if states.frees_gradients else 0.0
    if states.offloads_optimizer and not states.shards_weights:
        freed = host["gradients"] / 2
    return backward, backward - freed


@pytest.mark.parametrize(
    ("strategy", "precision", "world_size"),
    [
        ("zero0", "bf16", 8),
        ("zero1", "bf16", 8),
        ("zero1", "bf16", 512),
        ("zero2", "bf16", 64),
        ("zero2", "fp32", 8),
        ("zero2_offload", "bf16", 8),
        ("zero3", "bf16", 8),
        ("zero3", "bf16", 64),
        ("zero3_offload", "bf16", 8),
    ],
)
def test_rank_zero_holds_what_is_planned(strategy: str, precision: str, world_size: int) -> None:
    recipe = _recipe(strategy, precision)
    found = as_rank_zero(_held, recipe, world_size=world_size)
    planned: Any = _planned(recipe, shape_of_config(CONFIG.to_dict()), world_size)
    assert found == pytest.approx(planned, rel=0.02)
