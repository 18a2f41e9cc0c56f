"""Labeled rows are read as the run has read its own."""

import json
from pathlib import Path

import pytest

from shardtune.errors import DataError
from shardtune.recipe.load import parse_recipe
from shardtune.trainer.commands.quality.labeled_rows import as_learned, read_labeled_rows

CHAT = "task: {kind: chat}\nmodel: {path: org/name}\ndata: {train: train.jsonl}\n"
REVIEWS = "task: {kind: classification}\nmodel: {path: org/name}\n"
FACTS = {"label_names": ["bad", "good"], "has_pairs": False}


def test_conversations_without_a_reply_can_only_be_predicted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "Hello?"}]}))
    with pytest.raises(DataError) as raised:
        recipe = parse_recipe(CHAT)
        read_labeled_rows([str(path)], recipe, as_learned(recipe, {}), print, run_dir=Path("run"))
    assert str(raised.value) == (
        f"{path}:1: no assistant message; there is nothing to learn; rows without labels, or replies, can only be "
        f"predicted, by `shardtune predict run --file={path}`"
    )


def test_a_path_that_the_recipe_names_is_read_as_there_and_others_like_it(tmp_path: Path) -> None:
    for name in ("test.csv", "new.csv"):
        (tmp_path / name).write_bytes("opinion;stars\ncafé, warm;good\n".encode("cp1252"))
    how = "encoding: cp1252, separator: ';', columns: {text: opinion, label: stars}"
    recipe = parse_recipe(f"{REVIEWS}data: {{train: train.jsonl, test: {{path: {tmp_path}/test.csv, {how}}}}}\n")
    notes: list[str] = []
    for name in ("test.csv", "new.csv"):
        (row,), _ = read_labeled_rows(
            [f"{tmp_path}/{name}"], recipe, as_learned(recipe, FACTS), notes.append, run_dir=Path("run")
        )
        assert row.values == {"text": "café, warm", "label": "good"}
    (note,) = notes
    assert note.startswith(f"{tmp_path}/new.csv: using column opinion as text, stars as label (a guess; ")
