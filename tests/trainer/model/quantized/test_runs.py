"""Adapters over a quantized base learn the same on every layout, resume, and leave with the base they were trained on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from shardtune.run_dir.files import RESULTS
from shardtune.trainer.commands.predict import find_model, open_model
from shardtune.trainer.export.export import main as export
from shardtune.trainer.model.quantized.formats import rounded
from shardtune.trainer.model.quantized.linear import quantized_layers
from tests.support.runs import curve, events, train, write_tiny
from tests.support.stops import stop_after
from tests.trainer.model.test_lora import LAYERS, assert_same, logits, recipe_of, saved, train_in

NF4 = "model.lora.quantize_base=nf4"


@pytest.fixture(scope="module")
def reference(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One rank without DeepSpeed, each step one micro-batch."""
    recipe = recipe_of(tiny, "engine.deepspeed=null", NF4)
    return train(recipe, tmp_path_factory.mktemp("reference"), world_size=1)[1]


@pytest.mark.parametrize("strategy", ["null", "zero1", "zero2"])
def test_ranks_and_engines_change_nothing(
    tiny: Path, tmp_path: Path, reference: list[dict[str, Any]], strategy: str
) -> None:
    overrides = f"engine.deepspeed={strategy}", "train.micro_batch_tokens=128", "model.activation_checkpointing=true"
    assert_same(train(recipe_of(tiny, NF4, *overrides), tmp_path, world_size=2)[1], reference)
