"""A list within a text is read in each notation that tables have, and nothing else is taken for one."""

from typing import Any

import pytest

from shardtune.trainer.tasks.token_classification.cells import parse_list, parse_value


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('["O", "B-PER"]', ["O", "B-PER"]),
        ("['O', 'B-PER']", ["O", "B-PER"]),
        ("['O' 'B-PER'\n 'I-PER']", ["O", "B-PER", "I-PER"]),
        (""" ["it's", 'a "b"', 'a\\'b', '\\u5728'] """, ["it's", 'a "b"', "a'b", "在"]),
        ("[0, 1, 2]", [0, 1, 2]),
        ("[0 1 2]", [0, 1, 2]),
        ("[]", []),
        ("[O, B-PER]", None),
        ("[ Anna lives ]", None),
        ("['a', , 'b']", None),
        ("['a'", None),
        ("Anna lives", None),
        ('{"a": 1}', None),
    ],
)
def test_a_list_within_a_text(text: str, items: list[Any] | None) -> None:
    assert parse_list(text) == items


def test_items_without_quotes_are_read_only_where_they_may_be() -> None:
    assert parse_list("[O, B-PER]", has_bare_items=True) == ["O", "B-PER"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('[{"start": 0}]', [{"start": 0}]),
        ("[(0, 5, 'PER')]", [(0, 5, "PER")]),
        ("{'entities': [(0, 5, 'PER')]}", {"entities": [(0, 5, "PER")]}),
        ("positive", None),
        ("f(x)", None),
        ("[" * 100_000, None),
    ],
)
def test_a_value_within_a_text(text: str, value: Any) -> None:
    assert parse_value(text) == value
