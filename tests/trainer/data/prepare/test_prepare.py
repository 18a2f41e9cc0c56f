"""Data are prepared once, named by their content, and never read half-written."""

import errno
import json
import os
import pickle
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardtune.errors import DataError
from shardtune.trainer.data.prepare import prepare as module
from shardtune.trainer.data.prepare.prepare import Prepared, fingerprint, prepare
from shardtune.trainer.data.prepare.work_queue import WorkerKilled
from tests.support.runs import tiny_recipe, write_tiny
from tests.support.tiny import write_reviews


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path)


def test_prepared_rows_are_the_tokenized_ones_in_order(folder: Path) -> None:
    train = prepare(tiny_recipe(folder)).split("train")
    assert train is not None
    examples = train.examples(np.arange(len(train)))
    assert len(train) == len(examples) == 67
    assert [len(example["input_ids"]) for example in examples] == train.lengths.tolist()
    assert all(example["input_ids"][0] == 2 and example["input_ids"][-1] == 3 for example in examples)
    assert train.num_targets.tolist() == [1] * 67
    assert train.examples(np.array([5, 3])) == [examples[5], examples[3]]


def test_each_example_knows_where_its_row_was_written(folder: Path) -> None:
    write_reviews(folder / "more.jsonl", 5, seed=1)
    recipe = tiny_recipe(folder, f"data.train=[{folder}/train.jsonl, {folder}/more.jsonl]")
    train = prepare(recipe).split("train")
    assert train is not None
    places = [train.place(row) for row in range(len(train))]
    files = {"train.jsonl": 67, "more.jsonl": 5}
    assert places == [f"{folder}/{name}:{line}" for name, last in files.items() for line in range(1, last + 1)]


def test_the_second_call_reads_what_the_first_one_wrote(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(tiny_recipe(folder))
    monkeypatch.setattr(module, "_prepare", None)
    assert prepare(tiny_recipe(folder)) == first


@pytest.mark.parametrize(
    "override", ["data.max_tokens=32", "data.columns={text: text}", "task.label_names=[positive, negative]"]
)
def test_what_the_examples_depend_on_names_the_folder(folder: Path, override: str) -> None:
    assert fingerprint(tiny_recipe(folder, override)) != fingerprint(tiny_recipe(folder))


def test_what_they_do_not_depend_on_does_not(folder: Path) -> None:
    assert fingerprint(tiny_recipe(folder, "optim.lr=1e-2", "job.ranks=4")) == fingerprint(tiny_recipe(folder))


def test_other_content_is_another_folder_and_the_same_content_is_not(folder: Path) -> None:
    before = fingerprint(tiny_recipe(folder))
    os.utime(folder / "train.jsonl", (0, 0))
    assert fingerprint(tiny_recipe(folder)) == before
    write_reviews(folder / "train.jsonl", 67, seed=99)
    assert fingerprint(tiny_recipe(folder)) != before


def test_a_vocabulary_of_any_name_counts_as_content_and_a_note_beside_it_does_not(folder: Path) -> None:
    before = fingerprint(tiny_recipe(folder))
    (folder / "encoder" / "notes.txt").write_text("one")
    assert fingerprint(tiny_recipe(folder)) == before
    path = folder / "encoder" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "MarianTokenizer"}))
    digests = []
    for content in ("one", "two"):
        (folder / "encoder" / "source.spm").write_text(content)
        digests.append(fingerprint(tiny_recipe(folder)))
    assert len({before, *digests}) == 3


def test_an_incomplete_folder_is_prepared_again(folder: Path) -> None:
    made = prepare(tiny_recipe(folder)).folder
    (made / "meta.json").unlink()
    next(made.glob("train-*.arrow")).write_bytes(b"half")
    assert len(prepare(tiny_recipe(folder)).split("train").examples(np.arange(67))) == 67  # type: ignore[union-attr]


def test_only_the_splits_that_the_recipe_names_exist(folder: Path) -> None:
    prepared = prepare(tiny_recipe(folder, "data.test=null"))
    assert isinstance(prepared, Prepared)
    assert prepared.split("dev") is not None
    assert prepared.split("test") is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.max_tokens=65", "data.max_tokens: 65 is more than the maximum of .*encoder: 64"),
        ("model.path={folder}/nothing", "model.path: no model config could be loaded from .*nothing"),
    ],
)
def test_a_model_that_does_not_fit_is_reported_before_it_is_loaded(folder: Path, override: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepare(tiny_recipe(folder, override.format(folder=folder)))


def test_a_folder_without_a_tokenizer_is_reported(folder: Path) -> None:
    for path in (folder / "encoder").glob("token*"):
        path.unlink()
    with pytest.raises(DataError, match=r"model\.path: no tokenizer could be loaded"):
        prepare(tiny_recipe(folder))


def test_more_ranks_than_rows_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"67 training rows for 68 ranks; set job\.ranks=67 or fewer"):
        prepare(tiny_recipe(folder), num_ranks=68)


def test_nothing_is_left_where_the_data_are_wrong(folder: Path) -> None:
    (folder / "dev.jsonl").write_text('{"text": "good film", "label": "meh"}\n')
    with pytest.raises(DataError, match="label 'meh' is not in the training rows; legal: negative, positive"):
        prepare(tiny_recipe(folder))
    assert {path.name for path in (folder / "cache").iterdir()} <= {"fingerprints"}


def test_processes_of_a_machine_take_turns_and_leave_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    inside: list[int] = []
    most: list[int] = []

    def take(number: int) -> None:
        with module._machine_lock(tmp_path / "data", "", lambda _: None):
            inside.append(number)
            time.sleep(0.001)
            most.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(take, range(100)))
    assert most == [1] * 100
    assert list(tmp_path.iterdir()) == []


def test_data_that_change_while_they_are_prepared_are_refused_and_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = module._encode

    def encode_and_change(*args: Any) -> Any:
        write_reviews(folder / "train.jsonl", 67, seed=99)
        return encode(*args)

    monkeypatch.setattr(module, "_encode", encode_and_change)
    with pytest.raises(DataError, match="changed while they were prepared; run again"):
        prepare(tiny_recipe(folder))
    assert {path.name for path in (folder / "cache").iterdir()} <= {"fingerprints"}
    monkeypatch.setattr(module, "_encode", encode)
    assert prepare(tiny_recipe(folder)).exists


def test_finished_units_stay_for_the_next_start_when_a_process_was_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_encode", lambda *_: raise_(WorkerKilled("killed")))
    with pytest.raises(WorkerKilled):
        prepare(tiny_recipe(folder))
    (draft,) = (folder / "cache").glob("*.draft")
    before = {path: path.stat().st_mtime_ns for path in draft.glob("read/*.result")}
    monkeypatch.undo()
    seen: dict[Path, int] = {}
    commit = module._commit
    monkeypatch.setattr(
        module,
        "_commit",
        lambda *args: (
            seen.update({path: path.stat().st_mtime_ns for path in draft.glob("read/*.result")}),
            commit(*args),
        ),
    )
    assert prepare(tiny_recipe(folder)).exists
    assert before and seen == before


@dataclass
class Touches:
    """An object whose pickle makes a file when it is read."""

    path: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["read/*.result", "rows/*.rows", "read/*.pickle"])
def test_what_somebody_else_has_put_into_a_shared_cache_runs_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(module, "_encode", lambda *_: raise_(WorkerKilled("killed")))
    with pytest.raises(WorkerKilled):
        prepare(tiny_recipe(folder))
    monkeypatch.undo()
    (draft,) = (folder / "cache").glob("*.draft")
    if kind.endswith(".pickle"):  # which an earlier version read
        planted = [path.with_suffix(".pickle") for path in draft.glob("read/*.result")]
    else:
        planted = [*draft.glob(kind)]
    assert planted
    for path in planted:
        path.write_bytes(pickle.dumps(Touches(folder / "made")))
    if kind.endswith(".pickle"):
        assert prepare(tiny_recipe(folder)).exists
    else:
        with pytest.raises(DataError, match=rf"{draft}/.* is damaged .*; delete {draft} and run again to prepare"):
            prepare(tiny_recipe(folder))
    assert not (folder / "made").exists()


@pytest.mark.parametrize("kind", ["lengths", "num_targets", "sources"])
def test_an_array_of_pickles_in_a_shared_cache_runs_nothing(folder: Path, kind: str) -> None:
    prepared = prepare(tiny_recipe(folder))
    path = prepared.folder / f"train.{kind}.npy"
    np.save(path, np.array([Touches(folder / "made")], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=rf"{path} is damaged"):
        getattr(prepared.split("train"), kind)
    assert not (folder / "made").exists()


def raise_(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("name", ["meta.json", "train-*.arrow"])
def test_a_damaged_file_is_named_with_what_to_delete(folder: Path, name: str) -> None:
    prepared = prepare(tiny_recipe(folder))
    (path,) = prepared.folder.glob(name)
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(DataError) as raised:
        prepare(tiny_recipe(folder)).split("train").examples(np.arange(67))  # type: ignore[union-attr]
    assert str(raised.value).startswith(f"{path} is damaged (")
    assert str(raised.value).endswith(f"; delete {prepared.folder} and run again to prepare it again")
    shutil.rmtree(prepared.folder)
    assert len(prepare(tiny_recipe(folder)).split("train").examples(np.arange(67))) == 67  # type: ignore[union-attr]


def test_a_folder_that_cannot_be_written_to_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(DataError, match=rf"data\.cache_dir: {folder}/{path} cannot be written to \(.*set another"):
            prepare(tiny_recipe(folder, f"data.cache_dir={folder}/{path}"))

    def is_full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shardtune.trainer.data.prepare.work_queue.to_bytes", lambda *_: is_full(None))
    with pytest.raises(DataError, match=r"cannot be written to \(No space left on device\); free space or"):
        prepare(tiny_recipe(folder))


def test_a_row_without_tokens_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "shardtune.trainer.tasks.classification.classification.Classification.num_tokens",
        lambda _, example: 0 if len(example["input_ids"]) < 6 else len(example["input_ids"]),
    )
    with pytest.raises(DataError, match=r"\.jsonl:\d+: the tokenizer gives no tokens for it"):
        prepare(tiny_recipe(folder))
    said: list[str] = []
    assert prepare(tiny_recipe(folder, "data.on_bad_row=skip"), say=said.append).exists
    assert any("the tokenizer gives no tokens for it" in text for text in said)
