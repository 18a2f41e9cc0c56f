"""`shardtune prepare` says what it did, as a table or as JSON, and what is wrong with the data."""

import json
from pathlib import Path
from typing import Any

import pytest

from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.trainer.commands.prepare import main
from tests.support.runs import RECIPE, write_tiny


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    path = write_tiny(tmp_path) / "tiny.yaml"
    path.write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    return path


def prepared(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == EXIT_OK
    return json.loads(capsys.readouterr().out)


def test_it_says_what_it_made_and_the_second_time_that_it_is_there(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepared(capsys, str(recipe_path), "data.max_tokens=20")
    assert first["was_made"] and first["tokens_per_s"] > 0
    assert (first["rows"], first["examples"], first["shards"]) == (127, 127, 3)
    assert first["tokens"] == sum(split["tokens"] for split in first["splits"].values())
    assert Path(first["path"], "meta.json").is_file()
    again = prepared(capsys, str(recipe_path), "data.max_tokens=20")
    assert not again["was_made"] and again["tokens_per_s"] is None
    assert (again["path"], again["tokens"]) == (first["path"], first["tokens"])
    assert again["notes"] == [note for note in first["notes"] if not note.startswith("tokenizing")]
    assert main([str(recipe_path), "data.max_tokens=20"]) == EXIT_OK
    shown = capsys.readouterr().out
    assert f"in {first['path']}" in shown and "127" not in shown and "they were already prepared" in shown


def test_what_is_wrong_is_said_by_line(recipe_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (recipe_path.parent / "train.jsonl").open("a") as file:
        file.write('{"text": "", "label": "positive"}\n{"text": "good"}\n')
    assert main([str(recipe_path), "--json"]) == EXIT_USER
    said = capsys.readouterr()
    assert [line.split(".jsonl")[1] for line in json.loads(said.out)["errors"]] == [
        ":68: text is empty",
        ":69: no label",
    ]
    assert ":68: text is empty" in said.err
