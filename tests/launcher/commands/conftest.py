"""What the tests of `shardtune plan` stand in: a folder with a recipe, the config of a model of 8 B, and data."""

import json
from pathlib import Path

import pytest

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
RECIPE = """
task: {kind: language_modeling}
model: {path: model}
data: {train: train.txt, max_tokens: 2048}
train: {global_batch_size: 64, num_epochs: 1}
engine: {deepspeed: zero3}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(LLAMA_8B), encoding="utf-8")
    (tmp_path / "train.txt").write_text(f"{'word ' * 400}\n" * 640, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path
