"""Near duplicates between splits are counted, said and dropped; exact ones are counted elsewhere."""

from pathlib import Path

import pytest

from shardtune.errors import ConfigError, DataError
from shardtune.trainer.data.prepare.near_duplicates import report
from shardtune.trainer.data.prepare.prepare import fingerprint, prepare
from tests.support.runs import tiny_recipe, write_tiny
from tests.trainer.data.prepare.test_splits import jsonl, read_from, reviews, texts

LONG = "it was on the whole a film with some good scenes and a plot that made sense to me in the end"
OTHER = "this one I would not see again since all of it was much too slow and the sound was terrible as well"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text(
        jsonl(*reviews("a good film", LONG.upper(), f"{OTHER} too", "a bad film", OTHER, f"{LONG} indeed"))
    )
    (tmp_path / "dev.jsonl").write_text(jsonl(*reviews("dull", f"{LONG}!")))
    (tmp_path / "test.jsonl").write_text(jsonl(*reviews(OTHER, f"{LONG} again")))
    return tmp_path


def splits(folder: Path) -> list[str]:
    return [f"data.{name}={folder}/{name}.jsonl" for name in ("dev", "test")]


def test_near_duplicates_are_counted_and_noted_besides_those_with_the_same_input(folder: Path) -> None:
    found, said = read_from(folder, *splits(folder))
    assert len(found.rows["train"]) == 6
    near = found.report["near_duplicates"]
    assert near["dropped"] == 0
    assert [(leak["of"], leak["inside"], leak["rows"]) for leak in near["leaks"]] == [
        ("dev", "train", 1),
        ("test", "train", 1),  # the other one is in train as it is
        ("test", "dev", 1),
    ]
    assert said[-3:] == [
        "near duplicates: 1 dev row (50.0%) nearly the same as a train row, such as dev.jsonl:2 ~ train.jsonl:2 (1.00);"
        " data.near_duplicates=drop drops those train rows",
        "near duplicates: 1 test row (50.0%) nearly the same as a train row, such as test.jsonl:2 ~ train.jsonl:2 "
        "(0.95); data.near_duplicates=drop drops those train rows",
        "near duplicates: 1 test row (50.0%) nearly the same as a dev row, such as test.jsonl:2 ~ dev.jsonl:2 (0.95)",
    ]


def test_training_rows_that_nearly_equal_rows_of_dev_or_test_are_dropped_on_request(folder: Path) -> None:
    found, said = read_from(folder, *splits(folder), "data.near_duplicates=drop")
    assert texts(found) == ["a good film", "a bad film"]
    assert (len(found.rows["dev"]), len(found.rows["test"])) == (2, 2)
    assert found.report["near_duplicates"]["dropped"] == 4
    assert found.facts["label_counts"]["train"] == {"positive": 1, "negative": 1}
    assert said[-1] == "near duplicates dropped (data.near_duplicates: drop): 4 of train"


def test_the_same_is_found_in_small_pieces(folder: Path, tmp_path: Path) -> None:
    from tempfile import mkdtemp

    from shardtune.trainer.data.prepare.splits import read_splits
    from shardtune.trainer.data.prepare.work_queue import WorkQueue

    recipe = tiny_recipe(folder, *splits(folder))
    whole, small = (
        read_splits(recipe, lambda _: None, WorkQueue(Path(mkdtemp(dir=tmp_path))), piece_bytes=size)
        for size in (None, 64)
    )
    assert len(small.pieces.pieces) > len(whole.pieces.pieces)
    assert small.report["near_duplicates"] == whole.report["near_duplicates"]


def test_nothing_is_looked_for_without_dev_and_test_or_if_turned_off(folder: Path) -> None:
    assert read_from(folder)[0].report["near_duplicates"] is None
    assert read_from(folder, *splits(folder), "data.near_duplicates=off")[0].report["near_duplicates"] is None


def test_too_many_rows_are_searched_only_on_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_ROWS", 9)
    found, said = read_from(folder, *splits(folder))
    assert found.report["near_duplicates"] is None
    assert said[-1] == (
        "near duplicates between splits were not looked for among 10 rows; data.near_duplicates=count does"
    )
    found, _ = read_from(folder, *splits(folder), "data.near_duplicates=count")
    assert len(found.report["near_duplicates"]["leaks"]) == 3


def test_a_split_without_rows_left_is_an_error(folder: Path) -> None:
    (folder / "train.jsonl").write_text(jsonl(*reviews(LONG, f"{OTHER} too")))
    with pytest.raises(DataError, match=r"data.train: no rows left: all 2 are near duplicates of dev or test rows"):
        read_from(folder, *splits(folder), "data.near_duplicates=drop")


def test_what_is_counted_is_kept_with_the_prepared_data(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    (folder / "dev.jsonl").write_text(jsonl(*reviews(f"{LONG}!", "dull")))
    with (folder / "train.jsonl").open("a") as file:
        file.write(jsonl(*reviews(LONG, OTHER)))
    recipe = tiny_recipe(folder)
    first: list[str] = []
    near = prepare(recipe, say=first.append).meta["near_duplicates"]
    assert [(leak["of"], leak["rows"]) for leak in near["leaks"] if leak["of"] == "dev"] == [("dev", 1)]
    again: list[str] = []
    assert prepare(recipe, say=again.append).meta["near_duplicates"] == near
    assert [text for text in again if "near duplicates" in text] == [text for text in first if "near dup" in text]


def test_only_what_must_be_counted_or_dropped_names_other_prepared_data(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    names = [
        fingerprint(tiny_recipe(folder, f"data.near_duplicates={mode}")) for mode in ("auto", "off", "count", "drop")
    ]
    assert names[0] == names[1] == fingerprint(tiny_recipe(folder)) and len({*names}) == 3


def test_a_stream_cannot_be_searched(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    with pytest.raises(ConfigError, match=r"a stream cannot be searched for near duplicates; remove near_duplicates"):
        tiny_recipe(folder, "data.streaming=true", "train.max_steps=2", "data.near_duplicates=count")
