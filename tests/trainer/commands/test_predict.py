"""A file to predict may be of any format, and call its columns as the training data did."""

import datetime
import io
import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from shardtune.rows.source import Row
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.run_dir.run import Run, write_run_dir
from shardtune.trainer.commands.inference import predictions
from shardtune.trainer.commands.predict import find_model, main, open_model, predict, predict_together, read_inputs
from shardtune.trainer.distributed.ranks import Ranks
from tests.support.ranks import run_ranks
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


def test_predictions_are_the_same_bytes_on_any_number_of_ranks(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "BATCH_ROWS", 3)
    monkeypatch.setattr(predictions, "WINDOW_ROWS", 10)
    recipe, folder, facts = find_model(run_dir, "best")
    rows = [Row({"text": " ".join(["film"] * (at % 7 + 1))}, Path("rows"), at) for at in range(47)]

    def body(ranks: Ranks) -> list[dict[str, Any]]:
        task, model, tokenizer = open_model(recipe, folder, facts, ranks.device)
        return [answer for part in predict_together(task, model, tokenizer, rows, 64, ranks) for answer in part]

    alone = list(predict(recipe, folder, facts, rows))
    assert len(alone) == 47
    for world_size in (1, 2, 3):
        first, *others = run_ranks(body, world_size=world_size)
        assert first == alone and others == [[]] * (world_size - 1)


class Unread(io.StringIO):
    """An output that nobody reads any more."""

    def flush(self) -> None:
        raise BrokenPipeError


def test_ranks_read_prepared_rows_and_end_when_nobody_reads_the_predictions(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(run_dir), "--text=a good film", "--device=cpu"]
    assert main([*words, f"--prepare={tmp_path}"]) == EXIT_OK
    assert main([*words, f"--prepared={tmp_path}", f"--out={tmp_path}/out.jsonl"]) == EXIT_OK
    assert json.loads((tmp_path / "out.jsonl").read_text())["text"] == "a good film"
    assert (tmp_path / "said.txt").read_text() == f"1 prediction written to {tmp_path}/out.jsonl\n"
    assert capsys.readouterr().err == "", "the launcher says it"
    monkeypatch.setattr(sys, "stdout", Unread())
    monkeypatch.setattr("shardtune.trainer.commands.predict.forget_output", lambda: None)
    assert main([*words, f"--prepared={tmp_path}"]) == EXIT_OK
