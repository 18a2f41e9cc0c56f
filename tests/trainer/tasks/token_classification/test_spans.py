"""Laws of tags, spans and windows."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from shardtune.trainer.tasks.token_classification.spans import (
    Span,
    cut_windows,
    detect_scheme,
    signs_of,
    spans_of,
    split_words,
    tags_of,
    to_bio,
)

BIO = ["O", "B-A", "I-A", "I-A", "B-A", "B-B", "O", "I-B"]
LABELS = st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"])


@st.composite
def sentences(draw: Any, max_words: int = 40) -> tuple[int, list[Span]]:
    """How many words there are, and spans that do not overlap."""
    edges = draw(st.lists(st.integers(0, max_words), unique=True, max_size=12).map(sorted))
    spans = [Span(start, end, draw(st.sampled_from("AB"))) for start, end in pairwise(edges) if draw(st.booleans())]
    return max(1, *edges, draw(st.integers(1, max_words))) if edges else 1, spans


def as_bioes(spans: list[Span], num_words: int) -> list[str]:
    tags = ["O"] * num_words
    for start, end, type_ in spans:
        inner = [f"I-{type_}"] * (end - start - 2)
        tags[start:end] = [f"B-{type_}", *inner, f"E-{type_}"] if end - start > 1 else [f"S-{type_}"]
    return tags


def as_iob1(spans: list[Span], num_words: int) -> list[str]:
    tags = ["O"] * num_words
    for start, end, type_ in sorted(spans):
        follows_its_like = start > 0 and tags[start - 1].endswith(f"-{type_}")
        tags[start:end] = [f"{'B' if follows_its_like else 'I'}-{type_}"] + [f"I-{type_}"] * (end - start - 1)
    return tags


@settings(deadline=None)  # a busy machine is not a failure
@given(st.lists(LABELS, max_size=30))
def test_spans_are_those_that_seqeval_finds(tags: list[str]) -> None:
    assert spans_of(tags) == [Span(start, last + 1, type_) for type_, start, last in get_entities(tags)]


@settings(deadline=None)  # a busy machine is not a failure
@given(sentences())
def test_every_scheme_gives_the_same_spans_without_faults(sentence: tuple[int, list[Span]]) -> None:
    num_words, spans = sentence
    bio = tags_of(spans, num_words)
    assert spans_of(bio) == sorted(spans)
    assert to_bio(bio, "bio") == (bio, [], [])
    assert to_bio(as_iob1(spans, num_words), "iob1") == (bio, [], [])
    assert to_bio(as_bioes(spans, num_words), "bioes") == (bio, [], [])


@settings(deadline=None)  # a busy machine is not a failure
@given(st.lists(LABELS, max_size=30))
def test_a_repair_reads_bad_tags_as_seqeval_does(tags: list[str]) -> None:
    assert spans_of(to_bio(tags, "bio")[0]) == spans_of(tags)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "B-A", "I-A"], "bio"),
        (["O", "I-A", "I-A", "B-A"], "iob1"),
        (["B-A", "B-A", "I-A"], "bio"),
        (["O", "S-A"], "bioes"),
        (["U-A", "O", "B-A", "L-A"], "bioes"),
        (["B-A", "M-A", "E-A"], "bioes"),
        (["O"], "bio"),
        (["B-A", "O", "B-A", "O", "I-A"], "bio"),
    ],
)
def test_the_scheme_is_detected_from_the_tags(tags: list[str], scheme: str) -> None:
    assert detect_scheme([signs_of([tags])]) == scheme


@pytest.mark.parametrize(
    ("tags", "scheme", "bio", "message"),
    [
        (["O", "I-A"], "bio", ["O", "B-A"], "'I-A' after 'O': no open A entity"),
        (["I-A"], "bio", ["B-A"], "'I-A' at the start of a sentence: no open A entity"),
        (["B-A", "I-B"], "bio", ["B-A", "B-B"], "'I-B' after 'B-A': no open B entity"),
        (
            ["O", "B-A"],
            "iob1",
            ["O", "B-A"],
            "'B-A' after 'O': IOB1 has B- only directly after an entity of the same type",
        ),
        (["B-A", "O"], "bioes", ["B-A", "O"], "'O' after 'B-A': the entity is not closed by E-A"),
        (["E-A"], "bioes", ["B-A"], "'E-A' at the start of a sentence: no open A entity"),
        (["B-A"], "bioes", ["B-A"], "'B-A' at the end of a sentence: the entity is not closed by E-A"),
    ],
)
def test_an_illegal_tag_is_named_and_repaired(tags: Any, scheme: Any, bio: list[str], message: str) -> None:
    repaired, unknown, illegal = to_bio(tags, scheme)
    assert (repaired, unknown, [bad.what for bad in illegal]) == (bio, [], [message])


@pytest.mark.parametrize("tag", ["A", "X-A", "B-", "o", "E-A", ""])
def test_a_tag_outside_the_scheme_is_never_repaired(tag: str) -> None:
    _, (unknown,), _ = to_bio(["O", tag], "bio")
    assert (unknown.at, unknown.what) == (1, f"{tag!r} is not a tag of BIO; legal: O, B-TYPE, I-TYPE")


@settings(deadline=None)  # a busy machine is not a failure
@given(sentences(), st.data(), st.integers(8, 40), st.integers(0, 10))
def test_windows_hold_each_word_once_and_split_no_span(
    sentence: tuple[int, list[Span]], data: st.DataObject, room: int, context: int
) -> None:
    num_words, spans = sentence
    sizes = data.draw(st.lists(st.integers(1, room // 4), min_size=num_words, max_size=num_words))
    windows = cut_windows(sizes, spans, room=room, context=min(context, room // 4))
    own = [word for window in windows for word in range(window.start, window.end)]
    lost = set(range(num_words)) - set(own)
    cut = [window for window in windows if window.is_cut]
    too_long = [span for span in spans if any(window.start == span.start for window in cut)]
    assert own == sorted(set(own))
    assert all(sum(sizes[window.first : window.last]) <= room for window in windows)
    assert all(0 <= w.first <= w.start < w.end <= w.last <= num_words for w in windows)
    assert len(too_long) == len(cut)
    assert all(sum(sizes[span.start : span.end]) > room for span in too_long)
    assert all(window.end - window.start >= 2 for window in cut)
    assert lost == {
        word for span, window in zip(sorted(too_long), cut, strict=True) for word in range(window.end, span.end)
    }
    whole = [span for span in spans if span not in too_long]
    assert all(sum(w.start <= span.start and span.end <= w.end for w in windows) == 1 for span in whole)


def test_a_window_sees_its_neighbors_and_is_cut_where_no_span_is_near() -> None:
    windows = cut_windows([1] * 20, [Span(8, 11, "A")], room=12, context=2)
    assert [tuple(window[:4]) for window in windows] == [(0, 0, 7, 9), (5, 7, 15, 17), (13, 15, 20, 20)]


@pytest.mark.parametrize(
    ("text", "keep_inner", "words"),
    [
        ("EU rejects U.S. beef.", False, ["EU", "rejects", "U", ".", "S", ".", "beef", "."]),
        ("EU rejects U.S. beef.", True, ["EU", "rejects", "U.S", ".", "beef", "."]),
        ("Al-Ain's 1,000 (km)", True, ["Al-Ain", "'s", "1,000", "(", "km", ")"]),
        ("我在Google上班,3年了。", False, ["我", "在", "Google", "上", "班", ",", "3", "年", "了", "。"]),
        ("カタカナ", False, ["カ", "タ", "カ", "ナ"]),
        ("서울 하늘", False, ["서울", "하늘"]),
        ("cafe\u0301 हिन्दी ❤\ufe0f!", False, ["cafe\u0301", "हिन्दी", "❤\ufe0f", "!"]),
        (" \n", False, []),
        ("-", True, ["-"]),
    ],
)
def test_words_of_a_text(text: str, keep_inner: bool, words: list[str]) -> None:
    assert [text[start:end] for start, end in split_words(text, keep_inner=keep_inner)] == words


@settings(deadline=None)  # a busy machine is not a failure
@given(st.text(), st.booleans())
def test_words_contain_everything_but_spaces(text: str, keep_inner: bool) -> None:
    words = [text[start:end] for start, end in split_words(text, keep_inner=keep_inner)]
    assert "".join(words) == "".join(text.split())
    assert not any(character.isspace() for word in words for character in word)
