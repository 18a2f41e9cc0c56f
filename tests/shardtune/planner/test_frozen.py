"""What model.freeze leaves to train, by the patterns and the shape alone."""

from dataclasses import replace
from typing import Any

import pytest

from shardtune.planner.compute import micro_batch_seconds
from shardtune.planner.constants import Constants
from shardtune.planner.forecast.host import checkpoint_bytes
from shardtune.planner.forecast.of_recipe import job_of
from shardtune.planner.frozen import frozen_of
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Batch, Cluster, Job
from shardtune.planner.memory import gpu_memory, held_states
from shardtune.planner.model_shape import shape_of_config
from shardtune.planner.schedule import model_operations
from shardtune.recipe.load import parse_recipe

BERT = {"model_type": "bert", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
BERT |= {"intermediate_size": 128, "vocab_size": 500, "max_position_embeddings": 64, "type_vocab_size": 2}
T5 = {"model_type": "t5", "d_model": 64, "d_kv": 32, "num_heads": 2, "d_ff": 128, "num_layers": 4, "vocab_size": 500}


MINIMAL = "{task: {kind: classification}, model: {path: x}, data: {train: x}}"


def job(config: dict[str, Any], *overrides: str) -> Job:
    recipe = parse_recipe(MINIMAL, overrides)
    found = job_of(recipe, shape_of_config(config, num_labels=2), Cluster(gpu=find_gpu("h100")), "bf16")
    return replace(found, batch=Batch(rows=8, tokens=512))


@pytest.mark.parametrize(
    ("patterns", "layers", "below"),
    [
        (["embeddings", "layers:0-2"], 3, 3),
        (["layers:0-2"], 3, 0),
        (["embeddings", "encoder.layer.[0-1]."], 2, 2),
        (["embeddings", "layers:1"], 1, 0),
        (["embeddings", "layers:0", "bert.encoder.layer.3"], 2, 1),
        (["pooler", "*.bias"], 0, 0),
    ],
)
def test_layers_are_counted_by_short_words_and_by_names(patterns: list[str], layers: int, below: int) -> None:
    frozen = frozen_of(patterns, shape_of_config(BERT, num_labels=2))
    assert frozen is not None and len(frozen.layers[0]) == layers and frozen.num_below(0) == below


def test_a_decoder_has_a_backward_pass_for_its_encoder() -> None:
    shape = shape_of_config(T5)
    half = frozen_of(["embeddings", "layers:0-1"], shape)
    assert half is not None and [half.num_below(stack) for stack in (0, 1)] == [2, 0]
    encoder = frozen_of(["embeddings", "encoder.block.*", "decoder.block.0"], shape)
    assert encoder is not None and [encoder.num_below(stack) for stack in (0, 1)] == [4, 1]


def test_frozen_layers_take_less_memory_time_and_disk() -> None:
    everywhere = "engine.deepspeed=zero0"
    whole, part = job(BERT, everywhere), job(BERT, everywhere, "model.freeze=[embeddings, 'layers:0-1']")
    held = {name: size / part.num_trained for name, size in held_states(part).items() if size}
    assert held["optimizer states"] == 8 and held["master weights"] == 4
    assert held_states(part)["weights"] == held_states(whole)["weights"]
    assert part.num_trained == whole.num_trained - part.num_frozen < whole.num_trained
    assert gpu_memory(part).used < gpu_memory(whole).used
    (forward, backward), (same, longer) = (micro_batch_seconds(each, Constants()) for each in (part, whole))
    assert forward == same and backward.total < longer.total
    recipe = parse_recipe(MINIMAL)
    kept = recipe.checkpoint.keep_last + recipe.checkpoint.keep_best + 1
    saved = 2 * part.num_frozen + 12 * part.num_trained
    assert checkpoint_bytes(recipe, part) == pytest.approx(kept * saved)


def test_operations_stop_below_the_lowest_trained_layer() -> None:
    counts = [
        model_operations(job(BERT, f"model.freeze={patterns}"))
        for patterns in ("[]", "['layers:0-1']", "[embeddings, 'layers:0-1']")
    ]
    assert counts[0] > counts[1] > counts[2]


def test_pretrained_values_and_fisher_information_are_kept_beside_the_moments() -> None:
    for override, width in (("regularize.l2_sp=0.1", 2), ("regularize.ewc={data: x}", 6)):
        held = job(BERT, override, "engine.deepspeed=zero0")
        assert held_states(held)["pretrained values"] == width * held.num_trained
