"""The planner's bytes of states and of collectives are those that DeepSpeed holds and sends, at any world size."""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers

import tests.support.runs  # imports what each forked rank would
from shardtune.ds_config.cluster import Cluster as RankLayout
from shardtune.ds_config.resolve import ds_config_of, zero_stage
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Batch, Cluster, Job, Software
from shardtune.planner.memory import held_states, host_states
from shardtune.planner.model_shape import ModelShape, shape_of_config
from shardtune.planner.network import step_traffic
from shardtune.planner.strategy import states_of
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import FOLDER
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine, sharded_birth
from shardtune.trainer.engine.optimizers import adamw
from shardtune.trainer.model.load import DTYPES
from tests.support.fake_ranks import as_rank_zero, record_collectives, tensor_bytes

assert tests.support.runs
KINDS = {"all_reduce": "all_reduce", "all_gather_into_tensor": "gather", "reduce_scatter_tensor": "reduce"}
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


@dataclass(frozen=True)
class Seen:
    """What a rank holds and sends in a step."""

    held: tuple[float, float]
    """Bytes of tensors in floating point after the backward passes, and after the update."""
    sent: dict[str, float]
    """Bytes of the whole tensors of collectives: `all_reduce`, `gather`, `reduce`."""


def _second_step(ranks: Ranks, recipe: Recipe) -> Seen:
    """What DeepSpeed holds and sends in the second step."""
    layout = RankLayout(ranks.world_size, 8, link=None)
    ds_config = ds_config_of(recipe, hidden_size=CONFIG.hidden_size, cluster=layout)
    assert ds_config is not None
    collectives = record_collectives()
    before = tensor_bytes()
    with sharded_birth(ds_config) if zero_stage(ds_config) == 3 else nullcontext():
        model = transformers.AutoModelForCausalLM.from_config(CONFIG, dtype=DTYPES[recipe.engine.precision])
    engine = DeepSpeedEngine(model, ds_config, lambda model: adamw(model, recipe.optim), ranks=ranks, seed=0)
    tokens = torch.zeros(1, 4, dtype=torch.long)
    for step in range(2):
        collectives.clear()
        engine.begin_step(step, num_micro_batches=2)
        for _ in range(2):
            logits = engine._engine(input_ids=tokens, use_cache=False).logits
            engine.backward(logits.float().sum(), num_targets=4)
            del logits
        backward = tensor_bytes() - before
        engine.step(lr=1e-3)
    update = tensor_bytes() - before
    sent: dict[str, float] = dict.fromkeys(KINDS.values(), 0.0)
    for name, size in collectives:
        sent[KINDS[name]] += size
    first, second = (float(found["float32"] + found["bfloat16"]) for found in (backward, update))
    return Seen((first, second), sent)


def _planned(recipe: Recipe, shape: ModelShape, world_size: int) -> Seen:
    """What the planner says of the same step; here GPU and host are one memory."""
    layout = RankLayout(world_size, 8, link=None)
    ds_config = ds_config_of(recipe, hidden_size=CONFIG.hidden_size, cluster=layout)
    states = states_of(ds_config, recipe.engine.precision)
    cluster = Cluster(gpu=find_gpu("h100"), num_nodes=world_size // 8)
    job = Job(
        shape=shape,
        states=states,
        software=Software(),
        batch=Batch(rows=1, tokens=4, num_micro_batches=2),
        cluster=cluster,
    )
    held, host = held_states(job), host_states(job)
    backward = sum(held.values()) + sum(host.values())
    freed = held["gradients"] if states.frees_gradients else 0.0
    freed += held["weights for the node"]  # which is another copy after the update
    if states.offloads_optimizer and not states.shards_weights:
        freed = host["gradients"] / 2
    sent: dict[str, float] = dict.fromkeys(KINDS.values(), 0.0)
    for traffic in step_traffic(job):
        kind = "gather" if traffic.name.startswith("gather") else "all_reduce" if traffic.passes == 2 else "reduce"
        sent[kind] += traffic.num_bytes
    return Seen((backward, backward - freed), sent)


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
        ("zero3_hpz", "bf16", 64),
        ("zero3_offload", "bf16", 8),
    ],
)
def test_rank_zero_holds_and_sends_what_is_planned(strategy: str, precision: str, world_size: int) -> None:
    recipe = _recipe(strategy, precision)
    seen = as_rank_zero(_second_step, recipe, world_size=world_size)
    planned = _planned(recipe, shape_of_config(CONFIG.to_dict()), world_size)
    assert seen.held == pytest.approx(planned.held, rel=0.02)
    assert seen.sent == pytest.approx(planned.sent, rel=0.02)


@pytest.mark.parametrize(("strategy", "world_size"), [("zero3", 8), ("zero3_hpz", 64)])
def test_weights_that_are_not_used_again_soon_are_gathered_twice(
    strategy: str, world_size: int, tmp_path: Path
) -> None:
    ds_config = {**json.loads((FOLDER / f"{strategy}.json").read_text(encoding="utf-8"))}
    ds_config["zero_optimization"] |= {"stage3_max_reuse_distance": 0, "stage3_max_live_parameters": 0}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(ds_config), encoding="utf-8")
    recipe = _recipe(str(path), "bf16")
    seen = as_rank_zero(_second_step, recipe, world_size=world_size)
    planned = _planned(recipe, shape_of_config(CONFIG.to_dict()), world_size)
    assert seen.sent == pytest.approx(planned.sent, rel=0.02)
