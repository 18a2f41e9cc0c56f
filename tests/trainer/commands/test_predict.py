"""A file to predict may be of any format, and call its columns as the training data did."""

import datetime
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.run_dir.run import Run, write_run_dir
from shardtune.trainer.commands.predict import main, read_inputs
from tests.support.runs import tiny_recipe, train, write_tiny


@pytest.fixture(scope="module")
def run_dir(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step on two sources, of which one calls the text `opinion`."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "a.csv").write_text("opinion,label\ngood film,positive\nbad film,negative\n")
    sources = f"[{{path: {folder}/a.csv, columns: {{text: opinion}}}}, {tiny}/train.jsonl]"
    recipe = tiny_recipe(tiny, f"data.train={sources}", "train.max_steps=1", "data.dev=null", "data.test=null")
    write_run_dir(Run(recipe, folder / "run", folder))
    train(recipe, folder / "run", world_size=1)
    return folder / "run"


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("text", ""),
        ("review", "rows.csv: using column review as text (a guess; set data.columns to change it)\n"),
        ("opinion", "rows.csv: using column opinion as text (a guess; set data.columns to change it)\n"),
    ],
)
def test_the_text_is_found_under_its_name(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, said: str
) -> None:
    (tmp_path / "rows.csv").write_text(f"id,{column}\n7,a good film\n")
    assert main([str(run_dir), f"--file={tmp_path}/rows.csv"]) == EXIT_OK
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert (answer["id"], answer["text"]) == ("7", "a good film")
    assert answer["prediction"]["label"] in ("negative", "positive")
    assert err.removeprefix(f"{tmp_path}/") == said


def test_columns_that_json_has_no_form_for_are_written_as_text(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table({"text": ["a good film"], "day": [datetime.date(2020, 1, 2)]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert main([str(run_dir), f"--file={tmp_path}/rows.parquet"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["day"] == "2020-01-02"


class Touches:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_weights_that_somebody_has_put_in_the_place_of_the_exported_ones_are_not_unpickled(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "run"
    shutil.copytree(run_dir, changed)
    (changed / "export/best/model.safetensors").unlink()
    (changed / "export/best/pytorch_model.bin").write_bytes(pickle.dumps(Touches(tmp_path / "made")))
    assert main([str(changed), "--text=a good film"]) == EXIT_USER
    assert "export/best: its weights cannot be read (" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_damaged_weights_are_named_in_one_line(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run/export/best/model.safetensors").write_bytes(b"")
    assert main([str(tmp_path / "run"), "--text=a good film"]) == EXIT_USER
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}/run/export/best: its weights cannot be read (")
    assert line.endswith("; export the model again")


def test_a_file_without_the_text_is_refused_with_the_columns_that_it_has(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("review,opinion\na,b\n")
    assert main([str(run_dir), f"--file={tmp_path}/rows.csv"]) == EXIT_USER
    assert f"{tmp_path}/rows.csv:2: no text" in capsys.readouterr().err


def test_a_file_called_like_the_training_data_is_read_like_them(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    recipe = tiny_recipe(folder, f"data.train={{path: {folder}/old.csv, encoding: cp1252, separator: ';'}}")
    (folder / "new.csv").write_bytes("text;more\ncafé, warm;x\n".encode("cp1252"))
    (row,) = read_inputs(folder / "new.csv", recipe)
    assert row.values == {"text": "café, warm", "more": "x"}
