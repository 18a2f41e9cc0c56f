"""`shardtune blend`: models between the base of a run and its tuned one, evaluated, picked and exported."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.repocard import metadata_load
from safetensors.torch import load_file, save_file

from shardtune.trainer.commands.blending.blend import Blending, blend, main, parse_alphas
from shardtune.trainer.commands.predict import open_model
from shardtune.trainer.commands.quality.judged_runs import open_run
from shardtune.trainer.distributed.ranks import Ranks
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe, write_tiny
from tests.support.tiny import give_masked_head, write_documents
from tests.trainer.commands.quality.conftest import trained
from tests.trainer.commands.quality.test_evaluate import rounded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Path:
    return trained(tiny_recipe(folder, "train.max_steps=6"), folder / "classifier")


@pytest.fixture(scope="module")
def adapted(folder: Path) -> Path:
    return trained(tiny_recipe(folder, "train.max_steps=6", "model.lora={r: 2}", "optim.lr=3e-2"), folder / "adapted")


def blended(run_dir: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([str(run_dir), *words, "--json", "--device=cpu"]) == 0, capsys.readouterr().err
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report == json.loads((run_dir / "blend.json").read_text())
    return report


@pytest.mark.parametrize("name", ["classifier", "adapted"])
def test_alpha_one_has_the_metrics_of_the_run_and_the_best_on_dev_is_exported(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir: Path = request.getfixturevalue(name)
    report = blended(run_dir, "--alphas=0.5", capsys=capsys)
    results = json.loads((run_dir / "results.json").read_text())
    points = {point["alpha"]: point for point in report["alphas"]}
    best = points[report["best"]]["test"]["accuracy"]
    assert list(points) == [0, 0.5, 1]
    found, expected = points[1]["test"], results["test"]
    for metrics in (found, found["intervals"], expected, expected["intervals"]):
        metrics.pop("ece_scaled")  # by a temperature that a search has found, of which more digits differ
    assert rounded(found) == rounded(expected)
    assert points[1]["dev"]["accuracy"] == results["dev"]["accuracy"]
    assert report["best"] == max(points, key=lambda alpha: (points[alpha]["dev"]["accuracy"], -alpha))
    assert "classifier.weight" in report["kept"] and not any("layer" in kept for kept in report["kept"])
    folder = run_dir / "export" / "blend"
    card = (folder / "README.md").read_text()
    assert f"base + {report['best']:g} × (fine-tuned - base)" in card
    (card_index,) = metadata_load(folder / "README.md")["model-index"]
    values = {
        (of["dataset"]["split"], metric["type"]): metric["value"]
        for of in card_index["results"]
        for metric in of["metrics"]
    }
    assert values["test", "accuracy"] == best
    assert not list(run_dir.glob("export/.*"))


@pytest.mark.parametrize("name", ["classifier", "adapted"])
def test_the_weights_are_the_interpolation_of_both_ends(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_dir: Path = request.getfixturevalue(name)
    models = Blending(open_run(run_dir), tmp_path / "none", print).models
    for alpha in (0.0, 0.25, 1.0):
        models.write(tmp_path / f"{alpha}", alpha)
    base = load_file(run_dir.parent / "encoder" / "model.safetensors")
    whole, half, tuned = (weights(tmp_path / f"{alpha}", run_dir) for alpha in (0.0, 0.25, 1.0))
    assert len(tuned) > len(base) > 10
    for key, value in tuned.items():
        own = base.get(key.removeprefix("bert."), value)  # the head is as tuned
        assert torch.equal(whole[key], own)
        torch.testing.assert_close(half[key], own + 0.25 * (value - own), rtol=1e-6, atol=1e-7)
    assert sum(not torch.equal(tuned[key], whole[key]) for key in tuned) > 10


def weights(folder: Path, run_dir: Path) -> dict[str, torch.Tensor]:
    """The weights of the model in a folder, its adapters merged."""
    exported = open_run(run_dir)
    _, model, _ = open_model(exported.recipe, folder, exported.facts, torch.device("cpu"))
    scale = 1.0 if exported.recipe.model.lora is None else exported.recipe.model.lora.alpha / 2
    found: dict[str, torch.Tensor] = {}
    state = model.state_dict()
    for key, value in state.items():
        if ".lora_" in key or ".original_module." in key:
            continue
        layer = key.removesuffix(".base_layer.weight")
        if layer != key:
            down, up = (state[f"{layer}.lora_{each}.default.weight"] for each in "AB")
            value = value + scale * up @ down
        found[key.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")] = value
    return found


def test_a_table_shows_each_alpha_with_its_interval_and_rows_of_another_skill(
    classifier: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--data={folder}/train.jsonl", f"--out={tmp_path}/mixed", "--alphas=0.9,0.25", "--device=cpu"]
    assert main([str(classifier), *words]) == 0
    text = capsys.readouterr().out
    assert re.search(r"alpha +dev accuracy +test accuracy +other rows accuracy\n", text)
    assert re.search(
        r"\n *(\* )?0\.25 +0\.\d{4} +0\.\d{4} \(0\.\d{4} to 0\.\d{4}\) +0\.\d{4} \(0\.\d{4} to 0\.\d{4}\)\n", text
    )
    assert (
        "is the best by the highest mean of two shares: of the tuned model's accuracy on dev, and of the base's" in text
    )
    assert f"exported to {tmp_path}/mixed" in text and (tmp_path / "mixed" / "model.safetensors").is_file()
    assert "not in the base model, and so as tuned at every alpha: classifier." in text


def test_the_metrics_are_the_same_on_any_number_of_ranks(classifier: Path, tmp_path: Path) -> None:
    def body(ranks: Ranks, folder: Path) -> dict[str, Any]:
        blending = Blending(open_run(classifier), folder, print)
        return blend(blending, [0, 0.5, 1], {}, ranks)

    first, *others = (
        [{**found, "folder": ""} for found in run_ranks(body, tmp_path / str(number), world_size=number)]
        for number in (1, 2, 3)
    )
    for found in others:
        assert all(rounded(one) == rounded(first[0]) for one in found)


@pytest.fixture
def copied(classifier: Path, tmp_path: Path) -> Path:
    """The run, which a test may damage, with a base of its own."""
    shutil.copytree(classifier, tmp_path / "run")
    shutil.copytree(classifier.parent / "encoder", tmp_path / "encoder")
    config = json.loads((classifier / "config.yaml").read_text())
    config["model"]["path"] = str(tmp_path / "encoder")
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(config))
    return tmp_path / "run"


def said(run_dir: Path, capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> list[str]:
    assert main([str(run_dir), "--device=cpu", *words]) == code
    return capsys.readouterr().err.splitlines()


def test_what_cannot_be_blended_is_refused_in_one_line(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = said(copied, capsys, "--alphas=0.5,2")
    assert line.startswith("--alphas: expected numbers from 0 (the base) to 1 (the tuned model)") and "0.5,2" in line
    (line,) = said(tmp_path / "none", capsys)
    assert line.endswith("none: not a run directory (no config.yaml)")
    (line,) = said(copied, capsys, f"--out={tmp_path}")
    assert line == f"--out: {tmp_path} is not empty; give a new folder"
    weights = tmp_path / "encoder" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    (line,) = said(copied, capsys)
    assert line == (
        f"{tmp_path}/encoder: model.safetensors differs since {copied} was trained from it, so what lies between them "
        "means nothing; restore the base model"
    )
    (copied / "base_model.json").unlink()
    notice, *_ = said(copied, capsys, code=0)
    assert notice.startswith(f"{copied} has no base_model.json: whether {tmp_path}/encoder has changed")
    save_file({name: tensor[..., :1].clone() for name, tensor in tensors.items()}, weights, {"format": "pt"})
    assert said(copied, capsys)[-1].endswith("restore the base model that it was tuned from")
    shutil.rmtree(copied / "checkpoints")
    assert "checkpoints/step-" in said(copied, capsys)[-1] and "needs its manifest.json" in said(copied, capsys)[-1]
    (copied / "results.json").unlink()
    (line,) = said(copied, capsys)
    assert line.startswith(f"{copied} is not finished; ")


def test_alphas_are_read_with_both_ends_once_and_in_order() -> None:
    assert parse_alphas("0.7,1,0.5,0.50") == [0, 0.5, 0.7, 1]


def test_the_retention_sets_of_the_run_count_at_each_alpha(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny(tmp_path)
    give_masked_head(folder / "encoder")
    write_documents(folder / "general.jsonl", 23)
    old = f"old: {{task: {{kind: classification}}, data: {folder}/dev.jsonl}}"
    general = f"general: {{task: {{kind: language_modeling}}, data: {folder}/general.jsonl}}"
    sets = f"retention.sets={{{old}, {general}}}"
    run_dir = trained(tiny_recipe(folder, "train.max_steps=6", "engine.precision=auto", sets), folder / "retained")
    report = blended(run_dir, "--alphas=0.5", capsys=capsys)
    kept = json.loads((run_dir / "results.json").read_text())["retention"]
    assert report["retention"]["old"] == {"metric": "accuracy", "lower_is_better": False}
    assert report["retention"]["general"] == {"metric": "loss", "lower_is_better": True}
    points = {point["alpha"]: point["retention"] for point in report["alphas"]}
    for name, metric in (("old", "accuracy"), ("general", "loss")):
        assert points[1][name][metric] == pytest.approx(kept[name]["best"][metric], rel=2e-2)
        assert points[0][name]["loss"] != pytest.approx(points[1][name]["loss"], rel=1e-6)
        assert len(points[0.5][name]["intervals"][metric]) == 2
    # Before the first step the masked head was on the base model, as it is at alpha 0.
    assert points[0]["general"]["loss"] == pytest.approx(kept["general"]["at_start"]["loss"], rel=2e-2)
    assert "two shares" in report["rule"]
