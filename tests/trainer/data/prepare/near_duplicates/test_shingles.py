"""What counts as the same text: words, not how they are written."""

import re
import unicodedata
from typing import Any

import pytest

from shardtune.trainer.data.prepare.near_duplicates.shingles import LENGTH, ShingleSets, shingle_sets, text_of, words_of


def by_text(sets: ShingleSets) -> list[set[int]]:
    values = sets.values.tolist()
    ends = sets.sizes.cumsum().tolist()
    return [set(values[end - size : end]) for size, end in zip(sets.sizes.tolist(), ends, strict=True)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A fine film, indeed!", "a  fine film indeed"),
        ("Good.", "good"),
        ("ｆｕｌｌ width ＴＥＸＴ", "full width text"),
        ("这部电影非常好看！", "这部电影，非常好看"),
        ("ภาพยนตร์เรื่องนี้ดีมาก", "ภาพยนตร์เรื่องนี้ ดีมาก"),
        ("Das ist groß", "DAS IST GROSS"),
    ],
)
def test_case_punctuation_and_spaces_do_not_count(one: str, other: str) -> None:
    first, second = by_text(shingle_sets([one, other]))
    assert first == second


def test_other_words_or_another_order_are_other_shingles() -> None:
    texts = ["from Boston to Denver", "from Denver to Boston", "film 1", "film 2", "good", "good film", "!!!", "???"]
    sets = by_text(shingle_sets(texts))
    assert not any(one & other for at, one in enumerate(sets) for other in sets[:at])


def test_a_text_without_spaces_has_a_shingle_for_each_run_of_characters() -> None:
    assert words_of("电影abc很好") == ["电", "影", "abc", "很", "好"]
    assert shingle_sets(["这部电影很好看"]).sizes.tolist() == [5]


def test_shingles_are_the_distinct_runs_of_words_of_each_text() -> None:
    texts = ["a b c d", "a b c a b c a b c", "x", "", "the film was, on the whole, good; the film was good"]
    for text, found in zip(texts, by_text(shingle_sets(texts)), strict=True):
        words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())
        words += [""] * (LENGTH - len(words))
        assert len(found) == len({tuple(words[at : at + LENGTH]) for at in range(len(words) - LENGTH + 1)})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"text": "one", "text_pair": "two"}, "one two"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]}, "user Hi assistant "),
        ({"tokens": ["EU", "rejects"], "year": 7, "none": None}, "EU rejects 7"),
    ],
)  # fmt: skip
def test_all_texts_of_a_row_count(value: Any, text: str) -> None:
    assert text_of(value) == text
