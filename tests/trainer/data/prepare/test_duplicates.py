"""Duplicates are counted, within a split and between two, and dropped only on request."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtune.rows.source import Row
from shardtune.trainer.data.prepare.digests import digest, digests
from shardtune.trainer.data.prepare.duplicates import Duplicates


def split(name: str, *pairs: tuple[str, str]) -> list[Row]:
    return [
        Row({"text": text, "label": label, "id": line}, Path(f"{name}.csv"), line)
        for line, (text, label) in enumerate(pairs, start=2)
    ]


TRAIN = split("train", ("a", "x"), ("b", "y"), ("a ", "x"), ("c", "x"), ("b", "x"), ("d", "x"), ("a", "x"), ("e", "y"))
DEV = split("dev", ("d", "y"), ("f", "x"), (" f", "x"), ("g", "x"), ("a\n", "y"))
TEST = split("test", ("e", "y"), ("g", "y"), ("h", "x"))


def duplicates(**splits: list[Row]) -> Duplicates:
    return Duplicates(
        {name: digests(rows, ["text", "text_pair"], ["text", "label"]) for name, rows in splits.items()},
        lambda name, at: str(splits[name][at]),
    )


def test_duplicates_are_counted_within_each_split_and_between_two() -> None:
    found = duplicates(train=TRAIN, dev=DEV, test=TEST)
    assert found.repeats == {"train": 2, "dev": 1, "test": 0}
    assert found.conflicts == {"train": 2, "dev": 0, "test": 0}
    assert [(leak.of, leak.inside, leak.rows, leak.first) for leak in found.leaks] == [
        ("dev", "train", 2, ["dev.csv:2 = train.csv:7", "dev.csv:6 = train.csv:2"]),
        ("test", "train", 1, ["test.csv:2 = train.csv:9"]),
        ("test", "dev", 1, ["test.csv:3 = dev.csv:5"]),
    ]


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ("none", {"train": "abacbdae", "dev": "dffga", "test": "egh"}),
        ("train", {"train": "bcb", "dev": "dffga", "test": "egh"}),
        ("all", {"train": "bcb", "dev": "dfa", "test": "egh"}),
    ],
)
def test_the_first_row_stays_and_training_rows_give_way_to_evaluation_rows(how: Any, left: dict[str, str]) -> None:
    splits = {"train": TRAIN, "dev": DEV, "test": TEST}
    masks = duplicates(**splits).dropped(how)
    kept = {name: [row for row, is_out in zip(rows, masks[name], strict=True) if not is_out] for name, rows in
            splits.items()}  # fmt: skip
    assert {name: "".join(row.values["text"].strip() for row in rows) for name, rows in kept.items()} == left
    again = duplicates(**kept)
    if how != "none":
        assert again.repeats["train"] == 0 and not any(leak.rows for leak in again.leaks if leak.inside == "train")
    if how == "all":
        assert not any(again.repeats.values()) and not any(leak.rows for leak in again.leaks)


def test_without_other_splits_nothing_leaks() -> None:
    found = duplicates(train=TRAIN)
    assert (found.leaks, found.dropped("all")["train"].sum()) == ([], 2)


SAME = [
    ("a b", " a\tb\n"),
    ("\u3000好 片 ", "好\u3000片"),
    (["a", " b"], ["a", "b "]),
    ({"x": 1, "y": [" a"]}, {"y": ["a"], "x": 1}),
]
OTHERS = [
    "a",
    "A",
    "ab",
    "a b",
    ["a"],
    ["a", "b"],
    {"a": "b"},
    {"b": "a"},
    1,
    1.5,
    True,
    None,
    "1",
    "None",
    "true",
    b"a",
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_white_space_and_the_order_of_keys_make_no_difference(one: Any, other: Any) -> None:
    assert digest(one) == digest(other)


def test_whatever_else_differs_is_another_row() -> None:
    assert len({digest(value) for value in OTHERS}) == len(OTHERS)
    assert digest("a", seed=1) != digest("a")


def test_only_the_requested_columns_count_and_a_null_is_no_value() -> None:
    rows = [Row(values, Path("a"), 1) for values in ({"text": "a", "id": 1}, {"text": "a", "id": 2, "text_pair": None})]
    one, other = digests(rows, ["text", "text_pair"], ["label"]).inputs
    assert one == other
    assert len(np.unique(digests(rows, ["text"], ["id"]).whole)) == 2
    assert len(np.unique(digests(rows, ["text"], ["label"]).whole)) == 1


def test_rows_without_any_of_the_inputs_are_duplicates_only_if_all_their_values_are_the_same() -> None:
    rows = [Row({"en": en, "fr": "b", "target": "b"}, Path("a"), 1) for en in ("a", "c", "a ")]
    splits = {"train": rows[:2], "dev": rows[2:]}
    by_split = {name: digests(rows, ["source"], ["target"]) for name, rows in splits.items()}
    found = Duplicates(by_split, lambda *_: "")
    assert (found.repeats["train"], found.leaks[0].rows, found.conflicts) == (0, 1, {"train": 0, "dev": 0})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50)
@given(JSON)
def test_any_value_has_a_digest_of_64_bits(value: Any) -> None:
    assert 0 <= digest(value) < 2**64
