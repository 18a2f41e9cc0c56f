"""The report lists suspicious rows, if they were looked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from shardtune.launcher.report.record import read_record
from shardtune.launcher.report.sections.suspects import MOST_ROWS, suspects
from tests.launcher.report.test_page import write_run

LABEL = {
    "place": "/rows/train.jsonl:7",
    "split": "train",
    "is_unseen": True,
    "loss": 3.2,
    "text": "a good film",
    "label": "negative",
    "predicted": "positive",
    "label_probability": 0.041,
    "predicted_probability": 0.959,
}
LOSS = {"place": "/rows/train.jsonl:7", "split": "train", "is_unseen": False, "loss": 9.31, "text": "x x x"}


def found(run_dir: Path, rows: list[dict[str, Any]]) -> Any:
    write_run(run_dir, [])
    (run_dir / "suspects.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "torn")
    return suspects(read_record(run_dir))


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (LABEL, ("/rows/train.jsonl:7", "negative (0.04)", "positive (0.96)", "a good film")),
        (
            {**LABEL, "word": "Bonn", "label": "O", "predicted": "B-LOC"},
            ("/rows/train.jsonl:7", "'Bonn': O (0.04)", "B-LOC (0.96)", "a good film"),
        ),
        (LOSS, ("/rows/train.jsonl:7", "9.31", "x x x")),
    ],
)
def test_a_row_has_its_place_what_is_wrong_with_it_and_its_text(
    tmp_path: Path, row: dict[str, Any], cells: tuple[str, ...]
) -> None:
    (table,) = found(tmp_path, [row])
    assert table.rows == [cells] and len(table.head) == len(cells)
    assert ("by the model trained on them" in table.note) == (not row["is_unseen"])


def test_the_worst_ones_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    (table,) = found(tmp_path, [LABEL] * (MOST_ROWS + 3))
    assert len(table.rows) == MOST_ROWS and table.note.startswith(f"The first {MOST_ROWS} of {MOST_ROWS + 3}.")


def test_without_suspects_there_is_no_table(tmp_path: Path) -> None:
    assert found(tmp_path, []) == []
    (tmp_path / "suspects.jsonl").unlink()
    assert suspects(read_record(tmp_path)) == []
