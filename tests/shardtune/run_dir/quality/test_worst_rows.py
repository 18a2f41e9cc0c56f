"""The worst test rows, with their texts from wherever they were read."""

import gzip
import json
import os
from pathlib import Path

import pytest

from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.quality import worst_rows
from shardtune.run_dir.quality.worst_rows import WorstRows, read_worst_rows
from tests.support.retained_run import TEXTS, write_retained_run, write_test_rows


def recipe_of(run_dir: Path) -> Recipe:
    return parse_recipe((run_dir / "config.yaml").read_text(), name="config.yaml")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_retained_run(tmp_path / "run")


def test_the_highest_loss_comes_first_with_the_columns_of_the_row(run_dir: Path) -> None:
    worst = read_worst_rows(run_dir, recipe_of(run_dir), most=2)
    assert [(row.loss, row.values["text"], row.values["label"]) for row in worst.rows] == [
        (0.75, *TEXTS[3]),
        (0.5, *TEXTS[2]),
    ]
    assert (worst.num_rows, worst.columns) == (4, ["text", "label"])
    assert worst.rows[0].place.endswith("run-data/test.jsonl:4")


def test_a_row_of_several_examples_has_the_mean_of_their_targets(run_dir: Path) -> None:
    parts = [("a:1", 1.0, 3), ("a:1", 5.0, 1), ("b: row 2", 3.0, 2), ("b: row 3", 9.0, 0)]
    lines = [json.dumps({"place": place, "loss": loss, "targets": n}) + "\n" for place, loss, n in parts]
    (run_dir / "test_rows.jsonl").write_text("".join(lines))
    assert [(row.place, row.loss, row.values) for row in read_worst_rows(run_dir, None).rows] == [
        ("b: row 2", 3.0, {}),
        ("a:1", 2.0, {}),
    ]


def test_a_loss_that_is_not_finite_is_the_worst(run_dir: Path) -> None:
    (run_dir / "test_rows.jsonl").write_text(
        '{"place": "a:1", "loss": NaN, "targets": 1}\n{"place": "a:2", "loss": 2, "targets": 1}\n'
    )
    assert [row.place for row in read_worst_rows(run_dir, None).rows] == ["a:1", "a:2"]


def test_rows_are_found_in_csv_as_the_recipe_reads_it_and_in_compressed_files(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("good;one, two\nbad;three\n")
    with gzip.open(tmp_path / "t.jsonl.gz", "wt") as file:
        file.write('{"text": "packed"}\n')
    config = (run_dir / "config.yaml").read_text()
    source = f"{{path: {tmp_path}/t.csv, header: false, separator: ';', columns: {{label: '1', text: '2'}}}}"
    config = config.replace(f"{tmp_path}/run-data/test.jsonl", source)
    write_test_rows(run_dir, [f"{tmp_path}/t.csv:2", f"{tmp_path}/t.jsonl.gz:1"])
    rows = read_worst_rows(run_dir, parse_recipe(config, name="config.yaml")).rows
    assert [list(row.values.values()) for row in rows] == [["packed"], ["bad", "three"]]


def test_the_folder_of_a_class_is_the_label(run_dir: Path, tmp_path: Path) -> None:
    for label in ("dark", "light"):
        (tmp_path / "classes" / label).mkdir(parents=True)
        (tmp_path / "classes" / label / "a.txt").write_text(f"a {label} text\n")
    config = (run_dir / "config.yaml").read_text().replace(f"{tmp_path}/run-data/test.jsonl", f"{tmp_path}/classes")
    write_test_rows(run_dir, [f"{tmp_path}/classes/dark/a.txt:1"])
    (row,) = read_worst_rows(run_dir, parse_recipe(config, name="config.yaml")).rows
    assert (row.values["text"].strip(), row.values["label"]) == ("a dark text", "dark")


def test_what_is_gone_or_too_large_or_no_place_has_no_text(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(run_dir / "pipe")
    write_test_rows(run_dir, ["/nowhere/a.jsonl:3", "hf:owner/name: row 3", f"{run_dir}/pipe:1", "odd"])
    assert [row.values for row in read_worst_rows(run_dir, recipe_of(run_dir)).rows] == [{}] * 4
    monkeypatch.setattr(worst_rows, "MOST_BYTES", 10)
    write_retained_run(run_dir)
    assert not any(row.values for row in read_worst_rows(run_dir, recipe_of(run_dir)).rows)


@pytest.mark.parametrize("is_private", [True, False])
def test_the_group_may_write_the_places_if_nobody_else_is_in_it(
    run_dir: Path, is_private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worst_rows, "is_private_group", lambda _: is_private)
    (run_dir / "test_rows.jsonl").chmod(0o664)
    assert [bool(row.values) for row in read_worst_rows(run_dir, None).rows] == [is_private] * 4


def test_places_that_somebody_else_may_have_written_are_not_looked_up(run_dir: Path) -> None:
    (run_dir / "test_rows.jsonl").chmod(0o666)
    worst = read_worst_rows(run_dir, recipe_of(run_dir))
    assert len(worst.rows) == 4 and not any(row.values for row in worst.rows)


@pytest.mark.parametrize("text", [None, "", "[1]\n", '{"place": "a:1"}\n', "{\n"])
def test_a_file_that_is_missing_or_damaged_has_no_rows(run_dir: Path, text: str | None) -> None:
    path = run_dir / "test_rows.jsonl"
    path.unlink() if text is None else path.write_text(text)
    assert read_worst_rows(run_dir, None) == WorstRows([], 0)
