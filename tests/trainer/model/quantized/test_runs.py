"""Adapters over a quantized base learn the same on every layout, resume, and leave with the base that they need."""

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


def test_other_weights_of_the_base_are_seen(tiny: Path, tmp_path: Path, reference: list[dict[str, Any]]) -> None:
    for number, kind in enumerate(("none", "int8")):
        recipe = recipe_of(tiny, "engine.deepspeed=null", f"model.lora.quantize_base={kind}")
        after = train(recipe, tmp_path / str(number), world_size=1)[1]
        with pytest.raises(AssertionError):
            assert_same(after, reference)


@pytest.fixture(scope="module", params=["null-bf16-nf4", "zero2-bf16-int8"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of two ranks, on a base of its own."""
    strategy, precision, kind = request.param.split("-")
    folder = write_tiny(tmp_path_factory.mktemp("finished"))
    overrides = f"engine.deepspeed={strategy}", f"engine.precision={precision}", f"model.lora.quantize_base={kind}"
    return train_in(recipe_of(folder, *overrides), folder / "run", world_size=2)


def test_a_run_broken_off_ends_with_the_unbroken_ones_adapters_bit_for_bit(finished: Path, tmp_path: Path) -> None:
    recipe, _, _ = find_model(finished, "best")
    assert train(recipe, tmp_path, world_size=2, before=stop_after(3))[0] == [False, False]
    assert train(recipe, tmp_path, world_size=2)[0] == [True, True]
    assert curve(events(tmp_path)) == curve(events(finished))
    assert json.loads((tmp_path / RESULTS).read_text()) == json.loads((finished / RESULTS).read_text())
    adapters, other = saved(finished, 6), saved(tmp_path, 6)
    assert adapters.keys() == other.keys() and all(torch.equal(adapters[name], other[name]) for name in adapters)


def test_other_ranks_and_engines_resume_from_the_same_adapters(
    tiny: Path, tmp_path: Path, reference: list[dict[str, Any]]
) -> None:
    for num_ranks, strategy, num_steps in ((2, "zero2", 2), (3, "null", 1), (1, "zero1", None)):
        stop = stop_after(num_steps) if num_steps else (lambda: None)
        train(recipe_of(tiny, NF4, f"engine.deepspeed={strategy}"), tmp_path, world_size=num_ranks, before=stop)
    assert [event["step"] for event in events(tmp_path, "start")] == [0, 2, 3]
    assert_same(events(tmp_path), reference)


def test_a_checkpoint_holds_adapters_and_the_format_of_their_base(finished: Path, tiny: Path) -> None:
    weights = saved(finished, 6)
    assert all(".lora_" in name or name.startswith("classifier.") for name in weights)
    recipe, _, _ = find_model(finished, "best")
    assert recipe.model.lora is not None
    kept = json.loads((finished / "export" / "best" / "base_model.json").read_text())["quantized"]
    assert kept == {"kind": recipe.model.lora.quantize_base, "layers": sorted([*LAYERS, "bert.pooler.dense"])}
    (start,) = events(finished, "start")
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(tiny / "encoder").num_parameters()
    assert start["num_parameters"] == whole + sum(w.numel() for name, w in weights.items() if ".lora_" in name)
    assert any("are held as" in event["text"] for event in events(finished, "notice"))
    assert "quantization" not in (finished / "model" / "config.json").read_text()


def test_the_exported_adapters_predict_over_the_base_they_were_trained_on(finished: Path) -> None:
    recipe, folder, facts = find_model(finished, "best")
    assert recipe.model.lora is not None
    assert f"quantized to {recipe.model.lora.quantize_base}" in (folder / "README.md").read_text(encoding="utf-8")
    _, model, _ = open_model(recipe, folder, facts)
    assert len(quantized_layers(model)) == len(LAYERS) + 1
    step = json.loads((finished / RESULTS).read_text())["best_step"]
    merged = finished.parent / "merged"
    assert export([str(finished), "--merge-lora", f"--step={step}", "--dtype=fp32", f"--out={merged}"]) == 0
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(merged)
    assert torch.allclose(logits(whole), logits(model), atol=1e-4 if recipe.engine.precision == "fp32" else 0.1)
    assert f"quantized to {recipe.model.lora.quantize_base}" in (merged / "README.md").read_text(encoding="utf-8")


def test_a_merged_export_has_the_rounded_weights_with_the_adapters_added(finished: Path, tmp_path: Path) -> None:
    recipe, _, _ = find_model(finished, "best")
    assert recipe.model.lora is not None
    assert export([str(finished), "--merge-lora", "--step=6", "--dtype=fp32", f"--out={tmp_path}/merged"]) == 0
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").state_dict()
    base = transformers.AutoModelForSequenceClassification.from_pretrained(finished.parent / "encoder").state_dict()
    adapters = saved(finished, 6)
    for layer in LAYERS:
        down, up = (adapters[f"{layer}.lora_{side}.default.weight"] for side in "AB")
        weight = base[f"{layer}.weight"]
        expected = rounded(weight, recipe.model.lora.quantize_base) + (up @ down) * 2
        assert torch.equal(merged[f"{layer}.weight"], expected)
        assert not torch.equal(merged[f"{layer}.weight"], weight + (up @ down) * 2), "weights that were not rounded"
    norm = "bert.embeddings.LayerNorm.weight"
    assert torch.equal(merged[norm], base[norm])
