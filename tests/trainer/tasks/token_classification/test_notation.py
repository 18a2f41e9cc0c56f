"""A tag means the same however it is written; what is read differently is counted, and what is unclear refused."""

from typing import Any

import pytest

from shardtune.recipe.tasks.token_classification import TokenClassificationOptions
from shardtune.trainer.tasks.token_classification.notation import Readings, notation_of, notes_on


def read(tags: list[str | int], **values: Any) -> tuple[list[str], list[str]]:
    """The tags, and the notes on them."""
    readings = Readings()
    notation = notation_of(TokenClassificationOptions(kind="token_classification", **values))
    return [notation.read(tag, readings) for tag in tags], notes_on(readings)


@pytest.mark.parametrize(
    ("tags", "values", "read_as"),
    [
        (["B-PER", "I-PER", "O", "U-X", "M-geo-loc"], {}, ["B-PER", "I-PER", "O", "U-X", "M-geo-loc"]),
        (["B_PER", "I_geo-loc", "O"], {}, ["B-PER", "I-geo-loc", "O"]),
        (["PER-B", "PER-I", "geo_E"], {}, ["B-PER", "I-PER", "E-geo"]),
        (["b-per", "i-per", "o"], {}, ["B-per", "I-per", "O"]),
        (["B", "I", "O", "S", "B-", "I_"], {}, ["B-ENTITY", "I-ENTITY", "O", "S-ENTITY", "B-ENTITY", "I-ENTITY"]),
        (["B", "I"], {"types": ("DISEASE",)}, ["B-DISEASE", "I-DISEASE"]),
        (["B", "PER", "", "-", "X-PER"], {"types": ("A", "B")}, ["B", "PER", "", "-", "X-PER"]),
        ([1, "2", 0], {"tag_names": ("O", "B-PER", "I-PER")}, ["B-PER", "I-PER", "O"]),
        (["PER", "O", "art-film"], {"scheme": "io"}, ["I-PER", "O", "I-art-film"]),
    ],
)
def test_a_tag_is_read_as_prefix_and_type(tags: list[str | int], values: dict[str, Any], read_as: list[str]) -> None:
    assert read(tags, **values)[0] == read_as


def test_what_is_read_in_another_form_is_counted_with_examples() -> None:
    assert read(["B-PER", "O"])[1] == []
    assert read(["B_PER", "I_PER", "B_PER", "o", "B"])[1] == [
        "tags: 4 of another form read as PREFIX-TYPE: 'B_PER' as 'B-PER', 'I_PER' as 'I-PER', 'o' as 'O'",
        "tags without a type: 1, read with one (task.types names it): 'B' as 'B-ENTITY'",
    ]


@pytest.mark.parametrize(
    ("tag", "values", "message"),
    [
        (3, {}, "3 is a number; name them all, from 0 on, in task.tag_names="),
        ("3", {}, "3 is a number; name them all"),
        (3, {"tag_names": ("O", "B-X")}, "3 is not a number of task.tag_names, which go from 0 to 1"),
        (-100, {"tag_names": ("O", "B-X")}, "-100 is not a number of task.tag_names"),
        ("B-PER", {"scheme": "io"}, "'B-PER' has the prefix of another scheme; set task.scheme=auto"),
    ],
)
def test_a_tag_without_a_clear_meaning_is_refused(tag: str | int, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read([tag], **values)
