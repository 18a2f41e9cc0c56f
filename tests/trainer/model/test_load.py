"""What the log says of a model's weights when it is loaded."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.load import parse_recipe
from shardtune.trainer.model.load import MOST_NAMES, describe_loading, load_model
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks.classification.classification import Classification
from tests.support.tiny import write_encoder


def load(folder: Path, labels: list[str], *overrides: str, say: Callable[[str], None] = lambda _: None) -> Any:
    recipe = parse_recipe(
        f"task: {{kind: classification}}\nmodel: {{path: {folder}}}\ndata: {{train: x}}",
        ["engine.precision=fp32", *overrides],
    )
    tokenizer = load_tokenizer(recipe)
    facts = {"label_names": labels, "has_pairs": False}
    task = Classification(recipe.task, facts, tokenizer, load_model_config(recipe))
    return load_model(recipe, task, tokenizer, say=say)


def test_one_line_names_the_new_and_the_unused_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_encoder(tmp_path / "encoder")
    transformers.BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    caplog.clear()
    load(folder, ["a", "b"])
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not any("LOAD REPORT" in record.getMessage() for record in warnings)
    (line,) = [record.getMessage() for record in warnings if record.name.startswith("shardtune.")]
    assert line.startswith(f"model.path: {folder}: newly initialized, because the checkpoint lacks them: ")
    assert "bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, classifier.weight; " in line
    assert "in the checkpoint, but not used by this model: cls.predictions." in line


def test_attention_that_is_not_to_be_had_is_refused_and_what_is_unusual_is_said(tmp_path: Path) -> None:
    notes: list[str] = []
    folder = write_encoder(tmp_path / "encoder")
    with pytest.raises(
        ConfigError, match=r"^model\.attention: flash_attention_2 trains on GPUs only, .* set it to auto$"
    ):
        load(folder, ["a", "b"], "model.attention=flash_attention_2", say=notes.append)
    with pytest.raises(
        ConfigError, match=r"varlen has no dropout, and the model's attention has 0\.5 \(model\.dropout=0"
    ):
        load(folder, ["a", "b"], "model.attention=varlen", "model.dropout=0.5", say=notes.append)
    assert load(folder, ["a", "b"], say=notes.append).config._attn_implementation == "sdpa" and not notes
    model = load(folder, ["a", "b"], "model.attention=varlen", say=notes.append)
    assert model.config._attn_implementation == "varlen"
    assert notes == ["attention: varlen, which on a CPU attends to one text after another, for tests"]


def test_weights_of_another_shape_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_encoder(tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 65}))
    with pytest.raises(DataError) as caught:
        load(folder, ["a", "b"])
    assert "LOAD REPORT" not in caplog.text
    (line,) = str(caught.value).splitlines()
    assert (
        "these weights have other shapes than its config.json says: bert.encoder.layer.{0, 1}.intermediate.dense.bias, "
        in line
    )
    assert not logging.getLogger("transformers.modeling_utils").filters


def test_a_weight_of_every_layer_is_named_once_and_the_list_has_an_end() -> None:
    layers = [f"encoder.layer.{number}.output.bias" for number in range(12)]
    assert describe_loading(layers, []).endswith(": encoder.layer.*.output.bias")
    many = [f"head.{chr(97 + number)}" for number in range(MOST_NAMES + 3)]
    assert describe_loading([], many).endswith(", head.j, and 3 more")
    assert describe_loading([], []) == ""


def test_skipped_layers_are_said_and_so_is_a_probability_that_the_model_lacks(tmp_path: Path) -> None:
    folder, said = write_encoder(tmp_path / "encoder"), list[str]()
    load(folder, ["a", "b"], "model.layerdrop=0.1", "model.dropout=0.1", say=said.append)
    assert said == ["model.layerdrop has no effect: the model's config has no layerdrop probability"]
    said.clear()
    sides = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 30}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    bart = transformers.BartConfig(**sides, **heads, pad_token_id=0, bos_token_id=2, eos_token_id=3, architectures=[])
    bart.save_pretrained(folder)
    load(folder, ["a", "b"], "model.from_scratch=true", "model.layerdrop=0.1", say=said.append)
    assert "a step skips a layer with probability 0.1 (LayerDrop), the same layers on all ranks; " in said[-1]
