"""`shardtune compare`: which differences of two runs on the same rows are more than chance."""

import json
from pathlib import Path

import pytest

from shardtune.trainer.commands.quality.compare import main
from tests.support.runs import tiny_recipe, train, write_tiny
from tests.support.tiny import write_reviews


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned much, one that has learned nothing, and one with another test split."""
    folder = write_tiny(tmp_path_factory.mktemp("tiny"))
    write_reviews(folder / "train.jsonl", 600, seed=4)
    write_reviews(folder / "test.jsonl", 120, seed=5)
    (folder / "other.jsonl").write_text((folder / "dev.jsonl").read_text())
    for name, overrides in (
        ("long", ["train.num_epochs=5"]),
        ("short", ["train.max_steps=1", "optim.lr=1e-9"]),
        ("other", ["train.max_steps=1", f"data.test={folder}/other.jsonl", "data.dev=null"]),
    ):
        assert all(train(tiny_recipe(folder, *overrides), folder / name, world_size=1)[0])
        (folder / name / "config.yaml").write_text(tiny_recipe(folder, *overrides).model_dump_json())
    return folder


def test_a_model_that_has_learned_differs_by_more_than_chance_from_one_that_has_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder / "short"), str(folder / "long"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    accuracy = found["metrics"]["accuracy"]
    assert (found["rows"], found["only_in_a"], found["only_in_b"]) == (120, 0, 0)
    results = [json.loads((folder / name / "results.json").read_text())["test"] for name in ("short", "long")]
    assert [accuracy["a"], accuracy["b"]] == pytest.approx([test["accuracy"] for test in results])
    assert accuracy["only_b"] - accuracy["only_a"] == round(120 * (accuracy["b"] - accuracy["a"]))
    assert accuracy["mcnemar_p"] < 0.05 and accuracy["interval"][0] > 0


def test_the_table_names_both_runs_and_says_what_it_means(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder / "short"), str(folder / "long")]) == 0
    text = capsys.readouterr().out
    assert all(line in text for line in (f"A  {folder}/short", f"B  {folder}/long", "120 test rows in common"))
    assert "More than chance explains (p < 0.05):" in text and "McNemar's exact test" in text
    assert max(map(len, text.splitlines())) <= 120
    assert main([str(folder / "long"), str(folder / "long")]) == 0
    assert "No metric differs by more than chance explains" in capsys.readouterr().out


def test_runs_that_cannot_be_compared_are_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder / "short"), str(folder / "nowhere")]) == 2
    assert "nowhere: not a run directory" in capsys.readouterr().err
    assert main([str(folder / "short"), str(folder / "other")]) == 2
    assert "have no test row in common" in capsys.readouterr().err
    (folder / "other" / "test_rows.jsonl").write_text('{"place": 3}\n')
    assert main([str(folder / "short"), str(folder / "other")]) == 2
    assert "not a file of test rows (KeyError" in capsys.readouterr().err
    (folder / "other" / "test_rows.jsonl").unlink()
    assert main([str(folder / "short"), str(folder / "other")]) == 2
    assert "no test_rows.jsonl" in capsys.readouterr().err
