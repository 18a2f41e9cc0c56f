"""`shardtune plan --trace` prints the traced memory beside the planned."""

import json
from pathlib import Path

import pytest
import transformers

from shardtune.trainer.commands.planning.trace import main

RECIPE = "{task: {kind: language_modeling}, model: {path: %s}, data: {train: %s, max_tokens: 128}}"
SIZES = {"vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def _recipe(folder: Path, kind: str) -> str:
    transformers.AutoConfig.for_model(kind, **SIZES, intermediate_size=128).save_pretrained(folder / "model")
    (folder / "rows.txt").write_text("a film\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE % (folder / "model", folder / "rows.txt"), encoding="utf-8")
    return str(folder / "recipe.yaml")


def test_both_ways_are_printed_with_their_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = _recipe(tmp_path, "llama")
    assert main([recipe, "train.micro_batch_tokens=512"]) == 0
    step, traced, planned, difference = capsys.readouterr().out.splitlines()
    assert "4 rows of 128 tokens in bf16" in step
    assert "parameters" in traced and "weights" in planned
    assert abs(float(difference.split()[1].rstrip("%"))) < 10
    assert main([recipe, "train.micro_batch_tokens=512", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["traced_bytes"]["parameters"] > 0


def test_an_architecture_without_formulas_is_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = _recipe(tmp_path, "cohere")
    assert main([recipe, "train.micro_batch_tokens=512"]) == 0
    assert "does not know the architecture 'cohere'" in capsys.readouterr().out
    assert main([recipe, "train.micro_batch_tokens=auto"]) == 2
    assert "set train.micro_batch_tokens to a number" in capsys.readouterr().err
