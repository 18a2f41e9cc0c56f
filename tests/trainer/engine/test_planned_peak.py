"""The planner's peak of a step is that of a rank that computes for real, by the bytes of all tensors that are alive."""

import gc
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers

import tests.support.runs  # imports what each forked rank would
from shardtune.ds_config.cluster import Cluster as RankLayout
from shardtune.ds_config.resolve import ds_config_of, zero_stage
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Batch, Cluster, Job, Software
from shardtune.planner.memory import gpu_memory, host_states
from shardtune.planner.model_shape import shape_of_config
from shardtune.planner.strategy import states_of
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import sharded_birth
from shardtune.trainer.model.load import DTYPES
from shardtune.trainer.model.target_loss import CHUNK_BYTES, keep_target_loss
from shardtune.trainer.setup.trace.storages import StorageCounter
from tests.support.fake_ranks import as_rank_zero, engine_of
from tests.support.shapes import decoder

assert tests.support.runs
WORLD_SIZE, ROWS, VOCABULARY = 8, 2, 4000
DECODER = decoder(3)
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": DECODER,
    "mixtral": {**DECODER, "num_local_experts": 4},
    "bert": {
        "hidden_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}


def _config(kind: str) -> Any:
    return transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, **CONFIGS[kind])


def _ds_config(recipe: Recipe) -> dict[str, Any] | None:
    return ds_config_of(recipe, hidden_size=256, cluster=RankLayout(WORLD_SIZE, 8, None))


def _peak(ranks: Ranks, recipe: Recipe, kind: str, tokens: int) -> int:
    """Bytes at the peak of the second step."""
    config, ds_config = _config(kind), _ds_config(recipe)
    auto_model = transformers.AutoModelForMaskedLM if kind == "bert" else transformers.AutoModelForCausalLM
    targets = torch.zeros(ROWS * tokens, dtype=torch.long)
    inputs = {"input_ids": torch.zeros(ROWS, tokens, dtype=torch.long), "targets": targets}
    inputs["target_positions"] = torch.arange(ROWS * tokens)
    counter = StorageCounter("all")
    with counter:
        with sharded_birth(ds_config) if ds_config and zero_stage(ds_config) == 3 else nullcontext():
            model: Any = auto_model.from_config(config, dtype=DTYPES[recipe.engine.precision])
        keep_target_loss(model, is_chunked=True)
        forward, engine = engine_of(model, recipe, ds_config, ranks)
        for step in range(2):
            gc.collect()
            counter.restart()
            engine.begin_step(step, num_micro_batches=2)
            for _ in range(2):
                engine.backward(forward(**inputs).logits[0], num_targets=2 * ROWS * tokens)
            engine.step(lr=1e-3)
    return counter.peak.total()


def _planned(recipe: Recipe, kind: str, tokens: int) -> float:
    job = Job(
        shape=shape_of_config(_config(kind).to_dict()),
        states=states_of(_ds_config(recipe), recipe.engine.precision),
        software=Software(loss_chunk=CHUNK_BYTES["cpu"]),
        batch=Batch(rows=ROWS, tokens=tokens, num_micro_batches=2),
        cluster=Cluster(gpu=find_gpu("h100"), gpus_per_node=WORLD_SIZE),
        precision=recipe.engine.precision,
    )
    return gpu_memory(job).allocated + sum(host_states(job).values())


@pytest.mark.parametrize("strategy", ["zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "null"])
@pytest.mark.parametrize(("kind", "tokens"), [(kind, tokens) for kind in CONFIGS for tokens in (256, 512)])
def test_the_peak_is_what_is_planned(strategy: str, kind: str, tokens: int) -> None:
    text = "{task: {kind: language_modeling}, model: {path: x}, data: {train: x.txt}}"
    recipe = parse_recipe(text, [f"engine.deepspeed={strategy}", "engine.precision=bf16"])
    seen = as_rank_zero(_peak, recipe, kind, tokens, world_size=WORLD_SIZE)
    assert _planned(recipe, kind, tokens) == pytest.approx(seen, rel=0.1)
