"""However the data are cut into pieces, and whichever processes prepare them, they are the same."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.prepare import fingerprints
from shardtune.trainer.data.prepare.example_shards import Encoder
from shardtune.trainer.data.prepare.prepare import Prepared, prepare
from tests.support.runs import tiny_recipe, write_tiny
from tests.support.tiny import write_reviews
from tests.trainer.data.prepare.test_work_queue import at_once

MIXED = (
    "data.train=[{folder}/train.jsonl, {folder}/few.csv, {{path: '{folder}/many/*.jsonl', name: many}}, "
    "{folder}/packed.jsonl.gz]"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_tiny(tmp_path)
    (folder / "few.csv").write_text(
        "sentence,label\n" + "".join(f"good film,positive\nbad {n},negative\n" for n in range(20))
    )
    (folder / "many").mkdir()
    for number in range(12):
        write_reviews(folder / "many" / f"{number:02}.jsonl", 3, seed=number)
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(write_reviews(folder / "x.jsonl", 30, seed=5).read_bytes()))
    return folder


def mixed(folder: Path, cache: str, *overrides: str) -> Recipe:
    return tiny_recipe(folder, MIXED.format(folder=folder), f"data.cache_dir={folder}/{cache}", *overrides)


def content(prepared: Prepared) -> Any:
    """The content of a prepared folder, except how it is cut into files."""
    found: dict[str, Any] = {key: value for key, value in prepared.meta.items() if key != "shards"}
    for name in prepared.meta["splits"]:
        split = prepared.split(name)
        assert split is not None
        index = (split.lengths.tolist(), split.num_targets.tolist(), split.sources.tolist())
        found[f"{name} itself"] = (split.examples(np.arange(len(split))), index)
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.deduplicate=all"],
        ["data.dev={fraction: 0.2}", "data.test=null"],
        ["task.kind=language_modeling", "data.max_tokens=8"],
    ],
)
def test_pieces_and_processes_change_nothing(folder: Path, overrides: list[str]) -> None:
    whole = prepare(mixed(folder, "one", *overrides))
    pieces = prepare(mixed(folder, "other", *overrides), num_processes=2, piece_bytes=700)
    assert content(whole) == content(pieces)
    assert len(pieces.meta["shards"]["train"]) > 2 * len(whole.meta["shards"]["train"])


def test_two_machines_share_the_work_and_get_the_same_data(folder: Path) -> None:
    def on(machine: str, say: Callable[[str], None] = lambda _: None) -> Any:
        return content(prepare(mixed(folder, "both"), num_processes=2, piece_bytes=700, machine=machine, say=say))

    one, other = at_once(lambda: on("a"), lambda: on("b"))
    assert one == other == content(prepare(mixed(folder, "alone")))
    assert not [path for path in (folder / "both").iterdir() if path.suffix == ".draft"]


def test_of_two_jobs_on_one_machine_the_second_finds_what_the_first_prepared(folder: Path) -> None:
    def said() -> list[str]:
        texts: list[str] = []
        prepare(mixed(folder, "cache"), num_processes=2, piece_bytes=700, say=texts.append)
        return [text.split(":")[0] for text in texts if text.startswith("tokenizing")]

    assert sorted(at_once(said, said)) == [[], ["tokenizing train", "tokenizing dev", "tokenizing test"]]


def test_a_second_start_resumes_from_the_finished_shards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Encoder.write, []

    def breaking(self: Encoder, *words: Any) -> Any:
        if len(written) == 9:
            raise KeyboardInterrupt
        written.append(words[1])
        return write(self, *words)

    monkeypatch.setattr(Encoder, "write", breaking)
    with pytest.raises(KeyboardInterrupt):
        prepare(mixed(folder, "cache"), piece_bytes=700, num_processes=1)
    assert not list((folder / "cache").glob("*/meta.json"))
    before, written[:] = written[:6], []  # three splits of each piece
    monkeypatch.setattr(Encoder, "write", lambda self, *words: written.append(words[1]) or write(self, *words))
    prepared = prepare(mixed(folder, "cache"), piece_bytes=700, num_processes=1)
    assert not {*before} & {*written} and len(written) > 20
    monkeypatch.undo()
    assert content(prepared) == content(prepare(mixed(folder, "other")))


def test_lines_keep_their_numbers_whatever_piece_they_are_in(folder: Path) -> None:
    lines = [json.dumps({"text": f"film {n}", "label": ("negative", "positive")[n % 2]}) for n in range(300)]
    lines[17], lines[250], lines[120] = "{", '{"text": "", "label": "positive"}', ""
    (folder / "train.jsonl").write_text("\n".join(lines))
    for piece_bytes in (None, 500):
        with pytest.raises(DataError) as raised:
            prepare(tiny_recipe(folder), piece_bytes=piece_bytes)
        assert [line.split(" ")[0].removeprefix(f"{folder}/") for line in str(raised.value).splitlines()] == [
            "train.jsonl:18:",
            "train.jsonl:251:",
        ]
    prepared = prepare(tiny_recipe(folder, "data.on_bad_row=skip"), piece_bytes=500, num_processes=2)
    assert prepared.meta["bad_rows"]["rows"] == {"train": 2}
    assert [line.split(" ")[0].removeprefix(f"{folder}/") for line in prepared.meta["bad_rows"]["first"]] == [
        "train.jsonl:18:",
        "train.jsonl:251:",
    ]
    assert prepared.meta["splits"]["train"]["rows"] == 297


def test_a_file_that_has_not_changed_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in folder.glob("*.jsonl"):
        os.utime(path, (1e9, 1e9))
    known = fingerprints.Fingerprints(folder / "known")
    first = known.of(folder / "train.jsonl")
    monkeypatch.setattr(fingerprints, "file_digest", None)
    assert known.of(folder / "train.jsonl") == first
    monkeypatch.undo()
    write_reviews(folder / "train.jsonl", 67, seed=99)
    os.utime(folder / "train.jsonl", (1e9, 1e9))
    assert known.of(folder / "train.jsonl") != first
