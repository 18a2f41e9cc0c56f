"""`shardtune eval MODEL_FOLDER`: a model is measured alike, whether its run is known, or only its folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from shardtune.trainer.commands.quality.evaluate import main
from tests.trainer.commands.quality.test_evaluate import evaluated, rounded

RUNS = ("classifier", "tagger", "causal", "adapted")
KINDS = {"causal": ["--task=language_modeling"]}


def copied(run_dir: Path, folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """The best model of a run in a folder of its own, without some of its files."""
    shutil.copytree(run_dir / "export/best", folder, ignore=shutil.ignore_patterns(*without))
    return folder


def test_rows_of(run_dir: Path) -> str:
    return str(json.loads((run_dir / "config.yaml").read_text())["data"]["test"])


test_rows_of.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", RUNS)
def test_an_exported_folder_has_the_metrics_of_its_run(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir: Path = request.getfixturevalue(name)
    folder = copied(run_dir, tmp_path / "model")
    data = f"--data={test_rows_of(run_dir)}"
    report = evaluated(folder, data, capsys=capsys)
    assert report["metrics"] == evaluated(run_dir, data, capsys=capsys)["metrics"]
    assert report["model"] == str(folder)


@pytest.mark.parametrize("name", ["classifier", "tagger", "causal"])
def test_a_folder_from_elsewhere_has_the_metrics_of_its_run(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir: Path = request.getfixturevalue(name)
    folder = copied(run_dir, tmp_path / "model", without=("shardtune.json",))
    data, config = f"--data={test_rows_of(run_dir)}", json.loads((run_dir / "config.yaml").read_text())
    words = [f"data.max_tokens={config['data']['max_tokens']}", *KINDS.get(name, [])]
    words += ["task.stride=2"] if name == "tagger" else []
    report = evaluated(folder, *words, data, capsys=capsys)
    assert rounded(report["metrics"]) == rounded(evaluated(run_dir, data, capsys=capsys)["metrics"])


def test_adapters_from_elsewhere_are_put_on_the_base_that_they_name(
    adapted: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = copied(adapted, tmp_path / "model", without=("shardtune.json", "base_model.json"))
    data = f"--data={folder}/toy-test.jsonl"
    words = ["task.source_language=en", "task.target_language=fr", "task.max_new_tokens=4", "data.max_tokens=64"]
    report = evaluated(alone, *words, "--task=translation", data, capsys=capsys)
    expected = rounded(evaluated(adapted, data, capsys=capsys)["metrics"])
    assert rounded(report["metrics"]) == expected
    shutil.copytree(folder / "talker", tmp_path / "moved")
    config = json.loads((alone / "adapter_config.json").read_text()) | {"base_model_name_or_path": "gone"}
    (alone / "adapter_config.json").write_text(json.dumps(config))
    words += [f"model.path={tmp_path}/moved", "--task=translation"]
    assert rounded(evaluated(alone, *words, data, capsys=capsys)["metrics"]) == expected


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--device=cpu"]) == 2
    return capsys.readouterr().err.splitlines()[0]


def test_what_a_folder_does_not_tell_is_asked_for(
    causal: Path, classifier: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = str(copied(causal, tmp_path / "model", without=("shardtune.json",)))
    data = f"--data={folder}/test.jsonl"
    assert said(capsys, alone, data) == (
        f"{alone}: a LlamaForCausalLM may have learned language_modeling, chat or translation; say which, as in "
        "--task=language_modeling"
    )
    assert "unknown task 'ner'" in said(capsys, alone, data, "--task=ner")
    assert "lower it" in said(capsys, alone, "data.max_tokens=16384", data, "--task=language_modeling")
    assert "--model chooses among the models of a run directory" in said(capsys, alone, data, "--model=last")
    assert "optim.lr=1: an evaluation reads keys of task and data" in said(capsys, alone, "optim.lr=1", data)
    assert f"give the folder of the model: {classifier}/export/best" in said(
        capsys, str(classifier), data, "--task=chat"
    )


def test_a_head_that_nobody_has_trained_is_not_measured(
    folder: Path, causal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = str(copied(causal, tmp_path / "model", without=("shardtune.json",)))
    line = said(
        capsys, alone, f"--data={folder}/test.jsonl", "--task=classification", "task.label_names=[negative, positive]"
    )
    assert line.startswith(f"{alone} cannot be evaluated as classification: newly initialized, because the checkpoint")
    assert "score.weight" in line


def with_labels(folder: Path, *labels: str) -> str:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: at for at, label in enumerate(labels)}}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_labels_are_those_of_the_head(
    classifier: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = copied(classifier, tmp_path / "model", without=("shardtune.json",))
    data = f"--data={folder}/test.jsonl"
    expected = evaluated(classifier, data, capsys=capsys)["metrics"]

    assert main([with_labels(alone, "NEGATIVE", "POSITIVE"), data, "--device=cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    assert rounded(json.loads(out)["metrics"]) == rounded(expected)
    assert "labels of the rows taken for those of the model: negative for NEGATIVE, positive for POSITIVE" in err

    line = said(capsys, with_labels(alone, "bad", "good"), data)
    assert (
        line.startswith(f"{folder}/test.jsonl:1: label '")
        and "is not in the labels of the model; legal: bad, good" in line
    )
    assert "legal: 0, 1" in said(capsys, with_labels(alone, "LABEL_0", "LABEL_1"), data)
    named = evaluated(alone, "task.label_names=[negative, positive]", data, capsys=capsys)
    assert rounded(named["metrics"]) == rounded(expected)
    assert "3 names, but the head of" in said(capsys, str(alone), "task.label_names=[a, b, c]", data)


def test_rows_of_one_label_can_be_evaluated(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = copied(classifier, tmp_path / "model", without=("shardtune.json",))
    (tmp_path / "rows.jsonl").write_text('{"text": "a good film", "label": "positive"}\n')
    assert evaluated(alone, f"--data={tmp_path}/rows.jsonl", capsys=capsys)["rows"] == 1
