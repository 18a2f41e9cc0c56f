"""Laws of the demo's splits: a text is in one split, the same on every machine, and its label is clear."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.fetch import CACHE
from demo.sentiment import (
    MODEL_FILES,
    README,
    SPLITS,
    Review,
    clear_reviews,
    drop_contradictions,
    link_model,
    parse_ratings,
    prepare,
    write_splits,
)

SPLIT_FILES = ("train.jsonl", "dev.jsonl", "test.jsonl")


@pytest.fixture(scope="module")
def reviews_dir() -> Path:
    prepare()
    return CACHE / "demo" / "movie_reviews"


def read_reviews(path: Path) -> list[Review]:
    with path.open(encoding="utf-8") as lines:
        return [Review(**json.loads(line)) for line in lines]


def test_ratings_beyond_one_half_are_labels_and_the_rest_is_neutral() -> None:
    text = "1\t0.51\ta\r\n2\t-0.51\tb\r\n3\t0.5\tc\r\n4\t-0.5\td\r\n5\t0\te\r\n"
    assert clear_reviews(parse_ratings(text)) == ([Review("a", "positive"), Review("b", "negative")], 3)


def test_a_text_with_both_labels_is_dropped_and_one_with_the_same_label_twice_is_not() -> None:
    same = [Review("Fine!", "positive"), Review("fine", "positive")]
    assert drop_contradictions([*same, Review("So so.", "positive"), Review("so  so", "negative")]) == same


@given(st.text())
def test_case_spaces_and_punctuation_do_not_change_the_split_of_a_text(text: str) -> None:
    assert Review(f"  {text}\n", "positive").split == Review(f"“{text}” …", "negative").split in SPLITS
    assert Review("Ein STRASSENFEST", "positive").split == Review("ein straßenfest!", "positive").split


def test_the_split_of_a_text_never_changes() -> None:
    splits = {"A masterpiece.": "train", "Eh.": "test", "Warm": "test", "Sweet and sour": "train", "Bleak": "train"}
    assert {text: Review(text, "positive").split for text in splits} == splits


def test_the_order_of_the_rows_does_not_affect_their_split(tmp_path: Path) -> None:
    reviews = [Review(f"film number {number}", "positive") for number in range(300)]
    write_splits(reviews, tmp_path / "one")
    write_splits(random.Random(0).sample(reviews, len(reviews)), tmp_path / "two")
    for name in SPLIT_FILES:
        assert set(read_reviews(tmp_path / "one" / name)) == set(read_reviews(tmp_path / "two" / name))


def test_unchanged_files_are_not_rewritten(tmp_path: Path) -> None:
    reviews = [Review(f"film number {number}", "positive") for number in range(30)]
    write_splits(reviews, tmp_path)
    before = written(tmp_path)
    write_splits(reviews, tmp_path)
    assert written(tmp_path) == before


def written(folder: Path) -> list[tuple[int, int]]:
    """Inode and modification time of each split; not the access time, which reading may change."""
    return [(stat.st_ino, stat.st_mtime_ns) for stat in ((folder / name).stat() for name in SPLIT_FILES)]


def test_the_model_folder_is_repaired_if_a_file_is_lost_or_damaged(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "model"
    source.mkdir()
    for name in MODEL_FILES:
        (source / name).write_text(f"content of {name}")
    link_model(source, folder)
    (folder / "config.json").unlink()
    (folder / "vocab.txt").unlink()
    (folder / "vocab.txt").write_text("cut off")
    link_model(source, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        name: f"content of {name}" for name in MODEL_FILES
    }


def test_the_real_split_has_its_pinned_bytes(reviews_dir: Path) -> None:
    assert {name: hashlib.sha256((reviews_dir / name).read_bytes()).hexdigest() for name in SPLIT_FILES} == {
        "train.jsonl": "b3d7d7a3493f8803e3ccaa3e0bd3af0e9c11d9c71ee99cff21f54215a38232be",
        "dev.jsonl": "4a5b0da1515f37cfebc894c1790ab38d5327e716dbdced281de871ddd4b0e579",
        "test.jsonl": "3bf02a8ac651b7feef7a066bb67fa8ef0d626c21b8ea117155ee9f33ea6e714f",
    }


def test_the_real_splits_share_no_text_and_keep_every_clear_rating(reviews_dir: Path) -> None:
    splits = [read_reviews(reviews_dir / name) for name in SPLIT_FILES]
    keys = [{review.key for review in split} for split in splits]
    assert sum(map(len, keys)) == len(set.union(*keys))
    labels = [review.label for split in splits for review in split]
    assert (labels.count("positive"), labels.count("negative")) == (4982, 5061)
    assert [len(split) for split in splits] == [8021, 998, 1024]


def test_preparing_again_prints_the_same_summary(reviews_dir: Path) -> None:
    assert prepare() == prepare()
    assert (reviews_dir.parent / "README.txt").read_text(encoding="utf-8") == README
