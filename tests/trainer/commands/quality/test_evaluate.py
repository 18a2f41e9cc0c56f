"""`shardtune eval`: the metrics of an exported model on rows that its run has not seen, or has."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shardtune.trainer.commands import predict
from shardtune.trainer.commands.inference.placement import placement
from shardtune.trainer.commands.quality.evaluate import Evaluation, evaluate_model, main, prepare_rows
from shardtune.trainer.commands.quality.stored_rows import open_rows
from shardtune.trainer.commands.quality.subject import find_subject
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.evaluation.exported import ExportedModel
from tests.support.ranks import run_ranks


def evaluated(run_dir: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([str(run_dir), *words, "--json", "--device=cpu"]) == 0, capsys.readouterr().err
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def rounded(value: Any) -> Any:
    """Counts, names and fractions as they are; losses without the last digits of their float32 sums."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return pytest.approx(value, rel=2e-6) if isinstance(value, float) else value


@pytest.mark.parametrize("name", ["classifier", "tagger", "causal"])
def test_the_test_split_of_a_run_has_the_metrics_of_its_results(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir: Path = request.getfixturevalue(name)
    test = json.loads((run_dir / "results.json").read_text())["test"]
    config = json.loads((run_dir / "config.yaml").read_text())
    report = evaluated(run_dir, f"--data={config['data']['test']}", capsys=capsys)
    assert rounded(report["metrics"]) == rounded(test)
    assert report["metrics"].keys() == test.keys() and report["metrics"]["intervals"].keys() == test["intervals"].keys()


def test_an_adapted_model_and_generated_answers_have_the_metrics_of_their_results(
    adapted: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluated(adapted, f"--data={folder}/toy-test.jsonl", capsys=capsys)
    test = json.loads((adapted / "results.json").read_text())["test"]
    assert test["num_answers"] == 12
    assert rounded(report["metrics"]) == rounded(test)


@pytest.mark.parametrize("name", ["classifier", "tagger", "causal"])
def test_metrics_and_predictions_are_the_same_on_any_number_of_ranks(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    exported = find_subject(request.getfixturevalue(name))
    (test,) = exported.recipe.data.sources("test")
    rows = prepare_rows(exported, [test.path], tmp_path, print)

    def body(ranks: Ranks) -> Evaluation:
        return evaluate_model(exported, open_rows(tmp_path), ranks, with_predictions=True)

    first, *others = (run_ranks(body, world_size=world_size) for world_size in (1, 2, 3))
    assert len(first[0].predictions) == rows.num_rows
    for found in others:
        assert all(rounded(one.metrics) == rounded(first[0].metrics) for one in found)
        assert rounded(found[0].predictions) == rounded(first[0].predictions)


def test_predictions_are_those_of_predict_with_the_loss_and_the_place_of_each_row_in_order(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("id,review,label\n7,a good film,positive\n8,a dull and very very grim plot,negative\n")
    report = evaluated(classifier, f"--data={rows}", f"--predictions={tmp_path}/out.jsonl", capsys=capsys)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"], row["label"], row["place"]) for row in found] == [
        ("7", "a good film", "positive", f"{rows}:2"),
        ("8", "a dull and very very grim plot", "negative", f"{rows}:3"),
    ]
    assert predict.main([str(classifier), f"--file={rows}"]) == 0
    expected = [json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()]
    assert rounded([row["prediction"] for row in found]) == rounded(expected)
    assert sum(row["loss"] for row in found) / 2 == pytest.approx(report["metrics"]["loss"])
    right = sum(row["prediction"]["label"] == row["label"] for row in found) / 2
    assert report["metrics"]["accuracy"] == right
    low, high = report["metrics"]["intervals"]["accuracy"]
    assert low <= right <= high


def test_several_files_are_one_table_with_intervals(
    classifier: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--data={folder}/dev.jsonl", f"--data={folder}/test.jsonl", "--model=last", "--device=cpu"]
    assert main([str(classifier), *words]) == 0
    text = capsys.readouterr().out
    assert f"{classifier}/export/last on 60 rows of {folder}/dev.jsonl, {folder}/test.jsonl" in text
    assert re.search(r"accuracy +0\.\d{4} \(0\.\d{4} to 0\.\d{4}\)", text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a film", "label": "lukewarm"}', "{path}:1: label 'lukewarm' is not in the training rows; legal: "),
        ('{"text": "a film"}', "{path}:1: no label; rows without labels, or replies, can only be predicted, by `"),
        ('{"text": "a film", "label": "positive"}\n{"text": "a film"}', "{path}:2: no label"),
        ('{"text": 3, "label": "positive"}', "{path}:1: text: expected a text, got 3"),
        ("", "{path}: "),
        ("a film, positive", "{path}:1: "),
    ],
)
def test_rows_that_cannot_be_evaluated_are_refused_in_one_line(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    assert main([str(classifier), f"--data={path}", "--device=cpu"]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith(message.format(path=path))


def test_what_is_missing_is_named_in_one_line(
    classifier: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(run_dir: Path, *words: str) -> str:
        assert main([str(run_dir), f"--data={folder}/test.jsonl", "--device=cpu", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert (
        said(tmp_path / "none")
        == f"{tmp_path}/none: neither a run directory (no config.yaml) nor a model folder (no config.json)"
    )
    (tmp_path / "config.yaml").write_text((classifier / "config.yaml").read_text())
    assert said(tmp_path).startswith(f"{tmp_path}/export/best does not exist yet; ")
    assert "nowhere.csv" in said(classifier, "--data=nowhere.csv")
    assert "is given twice" in said(classifier, f"--data={folder}/test.jsonl")
    assert "name it out.jsonl" in said(classifier, "--predictions=out.csv")
    assert "there is no folder nowhere" in said(classifier, "--predictions=nowhere/out.jsonl")


def test_bad_rows_are_skipped_and_counted_where_the_recipe_says_so(classifier: Path, tmp_path: Path) -> None:
    exported = find_subject(classifier)
    data = exported.recipe.data.model_copy(update={"on_bad_row": "skip"})
    exported = replace(exported, recipe=exported.recipe.model_copy(update={"data": data}))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "positive"}\n{"text": "a", "label": "odd"}\nno json\n')
    notes: list[str] = []
    assert prepare_rows(exported, [str(path)], tmp_path, notes.append).num_rows == 1
    assert notes[0].startswith("rows skipped (data.on_bad_row)") and f"{path}:2: label 'odd'" in notes[0]


def test_a_lack_of_memory_is_said_in_one_line(
    classifier: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forward(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ExportedModel, "forward", forward)
    assert main([str(classifier), f"--data={folder}/test.jsonl", "--device=cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rank 0 ran out of memory with the whole model of {classifier}/export/best and micro-")


PARTS = {
    "classifier": ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler", "classifier"),
    "causal": ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head"),
    "adapted": None,
}
"""The modules of a model, of which one is on disk, from where accelerate fetches it when it is needed, as it moves what
a GPU has computed to the next one; None as transformers divides it by itself."""


@pytest.mark.parametrize("name", PARTS)
def test_a_model_that_is_divided_over_devices_has_the_same_metrics(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = find_subject(request.getfixturevalue(name))
    (test,) = subject.recipe.data.sources("test")
    prepare_rows(subject, [test.path], tmp_path, print)
    parts = PARTS[name]
    assert placement(is_split=False) == {} and placement(is_split=True) == {"device_map": "auto"}

    def in_parts(*, is_split: bool) -> dict[str, Any]:
        if not is_split or parts is None:
            return placement(is_split=is_split)
        places = {part: "disk" if part.endswith(".1") else "cpu" for part in parts}
        return {"device_map": places, "offload_folder": str(tmp_path / "offload")}

    def body(ranks: Ranks, is_split: bool) -> Evaluation:
        rows = open_rows(tmp_path)
        return evaluate_model(subject, rows, ranks, with_predictions=True, is_split=is_split)

    (whole,) = run_ranks(body, False, world_size=1)
    monkeypatch.setattr("shardtune.trainer.commands.inference.exported_model.placement", in_parts)
    (divided,) = run_ranks(body, True, world_size=1)
    assert rounded(divided.metrics) == rounded(whole.metrics)
    assert rounded(divided.predictions) == rounded(whole.predictions)
