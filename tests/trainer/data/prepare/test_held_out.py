"""A share of the training rows is held out by a hash of the group: always the same, whatever else is in the data."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.recipe.sections.data import DataConfig
from shardtune.rows.row_faults import BadRowsError, Faults
from shardtune.rows.source import Row
from shardtune.trainer.data.prepare.held_out import held_out, refuse_unknown_group, shares_of


def rows_of(texts: Any, **others: Any) -> list[Row]:
    return [Row({"text": text, **others}, Path("a.jsonl"), line) for line, text in enumerate(texts, start=1)]


def chats(count: int, turns: int = 3) -> list[Row]:
    return [
        Row({"text": f"{turn} of {chat}", "chat": chat}, Path("a.jsonl"), chat * turns + turn)
        for chat in range(count)
        for turn in range(turns)
    ]


def split(rows: list[Row], dev: Any = None, test: Any = None) -> dict[str, list[Row]]:
    data = DataConfig.model_validate({"train": "a.jsonl", "dev": dev, "test": test})
    faults = Faults()
    names = held_out(rows, data, ["text"], faults)
    assert not faults, faults
    present = ["train", *shares_of(data)]
    return {name: [row for row, own in zip(rows, names, strict=True) if own == name] for name in present}


def texts(rows: list[Row]) -> list[str]:
    return [row.values["text"] for row in rows]


def test_a_share_is_about_as_large_as_requested_and_keeps_the_order() -> None:
    rows = rows_of(map(str, range(10_000)))
    splits = split(rows, {"fraction": 0.1}, {"fraction": 0.05})
    sizes = {name: len(rows) for name, rows in splits.items()}
    assert sizes["dev"] == pytest.approx(1000, abs=100) and sizes["test"] == pytest.approx(500, abs=80)
    assert sum(sizes.values()) == 10_000
    for held in splits.values():
        assert [row.line for row in held] == sorted(row.line for row in held)


def test_all_rows_of_a_group_are_in_one_split() -> None:
    splits = split(chats(300), {"fraction": 0.2, "group": "chat"}, {"fraction": 0.2, "group": "chat"})
    groups = {name: {row.values["chat"] for row in rows} for name, rows in splits.items()}
    assert sum(map(len, groups.values())) == 300 and all(groups.values())


def test_without_groups_rows_with_the_same_inputs_stay_together() -> None:
    rows = rows_of(["one", " one\n", "two", "two  "] * 50, label="x") + rows_of(["one"], label="y")
    for seed in range(20):
        of_one = [
            name
            for name, held in split(rows, {"fraction": 0.5, "seed": seed}).items()
            if "one" in " ".join(texts(held))
        ]
        assert len(of_one) == 1


@given(st.lists(st.text(min_size=1), unique=True, max_size=30), st.lists(st.text(min_size=1), max_size=30))
def test_rows_that_are_added_later_move_no_other(old: list[str], new: list[str]) -> None:
    before = split(rows_of(old), {"fraction": 0.3}, {"fraction": 0.3})
    after = split(rows_of(new + old), {"fraction": 0.3}, {"fraction": 0.3})
    for name, held in before.items():
        assert set(texts(held)) <= set(texts(after[name]))


def test_a_larger_share_holds_the_smaller_one_and_the_test_share_does_not_move_with_dev() -> None:
    rows = rows_of(map(str, range(1000)))
    small, large = (split(rows, {"fraction": part}, {"fraction": 0.2}) for part in (0.1, 0.3))
    assert set(texts(small["dev"])) < set(texts(large["dev"]))
    assert texts(small["test"]) == texts(large["test"])


def test_another_seed_is_another_share() -> None:
    rows = rows_of(map(str, range(1000)))
    one, other = (split(rows, {"fraction": 0.5, "seed": seed})["dev"] for seed in (0, 1))
    assert 0.4 < len(set(texts(one)) & set(texts(other))) / len(one) < 0.6


def test_the_share_is_the_same_in_every_version() -> None:
    # Written down from a run: what was held out of an old training must not be trained on by a newer version.
    rows = rows_of(map(str, range(40)))
    splits = split(rows, {"fraction": 0.2}, {"fraction": 0.2})
    assert (texts(splits["dev"]), texts(splits["test"])) == (
        ["0", "6", "13", "21", "23", "27", "33", "34", "36", "37"],
        ["1", "4", "8", "16", "31", "32", "38"],
    )
    by_chat = split(chats(8, turns=1), {"fraction": 0.5, "group": "chat"})
    assert [row.values["chat"] for row in by_chat["dev"]] == [2, 3, 4, 5]


def test_a_recipe_without_shares_trains_on_all_rows() -> None:
    rows = rows_of("abc")
    assert split(rows, "dev.jsonl") == {"train": rows}


def test_rows_without_a_group_are_each_reported_and_an_unknown_group_once() -> None:
    data = DataConfig.model_validate({"train": "a", "dev": {"fraction": 0.5, "group": "chat"}})
    faults = Faults()
    held_out([*chats(2, turns=1), *rows_of("ab"), *rows_of("c", chat=None)], data, ["text"], faults)
    assert faults.first == [f"a.jsonl:{line}: no chat, the group by which rows are held out" for line in (1, 2, 1)]
    assert faults.are_rows_alone
    with pytest.raises(BadRowsError) as raised:
        refuse_unknown_group(data, ["text"])
    assert str(raised.value) == "data.dev.group: no training row has a column 'chat'; columns, after renaming: text"
    assert not raised.value.faults.are_rows_alone


@pytest.mark.parametrize("dev", [None, {"fraction": 0.25}])
def test_folds_are_equal_parts_without_a_row_in_common_that_together_are_all_rows_but_those_of_dev(dev: Any) -> None:
    rows = rows_of(map(str, range(6000)))
    by_fold = [split(rows, dev, {"fraction": 1 / 3, "fold": fold}) for fold in range(3)]
    folds = [texts(found["test"]) for found in by_fold]
    outside = [text for text in texts(rows) if dev is None or text not in {*texts(by_fold[0]["dev"])}]
    assert sorted(text for fold in folds for text in fold) == sorted(outside)
    for fold, found in zip(folds, by_fold, strict=True):
        assert len(fold) == pytest.approx(len(outside) / 3, rel=0.1)
        assert sorted([*fold, *texts(found["train"])]) == sorted(outside)
        assert found.get("dev") == by_fold[0].get("dev")


def test_a_fold_holds_groups_together() -> None:
    splits = split(chats(300), test={"fraction": 0.2, "fold": 4, "group": "chat"})
    groups = [{row.values["chat"] for row in rows} for rows in splits.values()]
    assert not groups[0] & groups[1] and len(groups[1]) > 30


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"test": {"fraction": 0.2, "fold": 5}}, "there are 5 folds, 0 to 4; got 5"),
        ({"test": {"fraction": 0.3, "fold": 0}}, "folds are equal parts, such as 0.5, 0.2 or 0.1; 0.3 is none"),
        ({"dev": {"fraction": 0.2, "fold": 0}}, "dev.fold: folds are for test; remove the key"),
    ],
)
def test_a_fold_that_does_not_exist_is_refused(shares: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig.model_validate({"train": "a.jsonl", **shares})
