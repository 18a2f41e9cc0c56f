"""Several labels in one value, in all the ways people write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import DataError
from shardtune.recipe.tasks.classification import ClassificationOptions
from shardtune.rows.source import Row
from shardtune.trainer.tasks.classification.classification import Classification
from shardtune.trainer.tasks.classification.label_lists import names_in
from shardtune.trainer.tasks.run_survey import survey

NAMES = ["toxic", "insult", "threat"]
HOT = [["toxic"], ["insult", "threat"], []]


def facts_of(labels: Sequence[Any], dev: Sequence[Any] = (), **options: Any) -> dict[str, Any]:
    splits = {
        split: [Row({"text": "a", "label": label}, Path(split), line) for line, label in enumerate(given, start=1)]
        for split, given in (("train", labels), ("dev", dev))
        if given
    }
    return survey(
        Classification, ClassificationOptions(kind="classification", problem="multi_label", **options), splits
    )


def read(labels: Sequence[Any], **options: Any) -> list[list[str]]:
    facts = facts_of(labels, **options)
    return [names_in(label, facts) for label in labels]


@pytest.mark.parametrize(
    "labels",
    [
        [[1, 0, 0], [0, 1, 1], [0, 0, 0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]],
        [[True, False, False], [False, True, True], [False, False, False]],
        ["1,0,0", "0,1,1", "0,0,0"],
        ["1 0 0", "0 1 1", "0 0 0"],
        ["[1, 0, 0]", "[0, 1, 1]", "[0, 0, 0]"],
        ["[1 0 0]", "[0 1 1]", "[0 0 0]"],
        ["[True, False, False]", "[False, True, True]", "[False, False, False]"],
        ["1|0|0", "0|1|1", "0|0|0"],
    ],
)
def test_multi_hot_labels_need_names_and_are_read_by_them(labels: list[Any]) -> None:
    with pytest.raises(DataError, match=r"^train: the labels are lists of 3 zeros and ones, one for each label; name"):
        facts_of(labels)
    assert read(labels, label_names=tuple(NAMES)) == HOT
    counts = facts_of(labels, labels[:1], label_names=tuple(NAMES))["label_counts"]
    assert counts == {"train": dict.fromkeys(NAMES, 1), "dev": {"toxic": 1}}
    with pytest.raises(DataError, match=r"lists of 3 zeros and ones, .*, but task.label_names has 2 names"):
        facts_of(labels, label_names=("a", "b"))


def test_a_row_of_another_length_is_named() -> None:
    with pytest.raises(DataError) as raised:
        facts_of([[1, 0, 0], [1, 0], "", [0, 1, 1], [0, 0, 1]], label_names=tuple(NAMES))
    assert str(raised.value).split("\n") == [
        "train:2: label: expected 3 zeros and ones, as in other rows, got [1, 0]",
        "train:3: label: expected 3 zeros and ones, as in other rows, got ''",
    ]


@pytest.mark.parametrize(
    "labels",
    [
        [["a", "b c"], ["b c"], []],
        ["a|b c", "b c", ""],
        ["a; b c;", " b c ", "  "],
        ["a,b c", "b c", ""],
        ["['a', 'b c']", "['b c']", "[]"],
        ['["a", "b c"]', '["b c"]', "[]"],
        ["['a' 'b c']", "['b c']", "[]"],
        [("a", "b c", "a"), ["b c"], ()],
    ],
)
def test_names_are_read_in_every_notation(labels: list[Any]) -> None:
    assert read(labels) == [["a", "b c"], ["b c"], []]


def test_two_separators_are_asked_about() -> None:
    labels = ["Action|Sci-Fi, Fantasy", "Drama"]
    with pytest.raises(DataError, match=r"train: labels contain ',' \(1 rows\) and '\|' \(1 rows\); name the one"):
        facts_of(labels)
    assert read(labels, label_separator="|") == [["Action", "Sci-Fi, Fantasy"], ["Drama"]]


def test_one_column_per_label_names_its_labels_even_where_none_applies() -> None:
    labels = [dict(zip(NAMES, row, strict=True)) for row in (("1", "0", ""), ("0", "1", ""))]
    with pytest.raises(DataError, match=r"train:1: label: threat: expected 0 or 1, got \{'toxic': '1'"):
        facts_of(labels)
    labels = [dict(zip(NAMES, row, strict=True)) for row in (("1", "0", "0"), (0, 1.0, False))]
    facts = facts_of(labels)
    assert facts["label_names"] == NAMES
    assert [names_in(label, facts) for label in labels] == [["toxic"], ["insult"]]


def test_numbers_and_texts_are_one_name_in_every_container() -> None:
    assert read([[1, 2], [1.0, 2.0], ["1", "2"], "1,2", "[1, 2]"]) == [["1", "2"]] * 5


def test_bare_zeros_and_ones_are_names_if_they_are_called_so() -> None:
    assert read([[0, 1], [0], [1]], label_names=("0", "1")) == [["0", "1"], ["0"], ["1"]]


def test_a_text_in_brackets_is_a_name_like_any_other() -> None:
    assert read(["[unk],a", "a"]) == [["[unk]", "a"], ["a"]]


def test_single_labels_are_whole_numbers_or_one_of_several_columns() -> None:
    options = ClassificationOptions(kind="classification")
    labels: list[Any] = [1.0, 0, "1", {"0": 1, "1": 0}]
    rows = [Row({"text": "a", "label": label}, Path("train"), line) for line, label in enumerate(labels, start=1)]
    assert survey(Classification, options, {"train": rows})["label_counts"] == {"train": {"1": 2, "0": 2}}
    with pytest.raises(DataError, match=r"train:2: label: expected a 1 in exactly one column, found 2 in"):
        survey(
            Classification,
            options,
            {"train": [rows[0], Row({"text": "a", "label": {"0": 1, "1": 1}}, Path("train"), 2)]},
        )
