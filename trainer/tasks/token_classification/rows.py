"""What a row says: its words and where they are in the text, its tags, and its spans; and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from shardtune.rows.input_file import ending_of, place_in_words
from shardtune.rows.row_faults import RowLocation
from shardtune.rows.source import Faults, Row, check_text, shown
from shardtune.trainer.tasks.token_classification.cells import parse_list
from shardtune.trainer.tasks.token_classification.exports import GivenSpan, is_unlabeled, read_span, spans_in
from shardtune.trainer.tasks.token_classification.notation import Readings, TagNotation
from shardtune.trainer.tasks.token_classification.spans import Span, split_tag, split_words

_WORD_KEYS = ("text", "word", "token", "form")
_OBJECTS = frozenset({".jsonl", ".json", ".csv", ".tsv"})
"""Formats whose rows have columns."""


class Words(NamedTuple):
    """A row's text and the positions of its words in it, as (start, end)."""

    text: str
    offsets: list[tuple[int, int]]


def has_tokens(row: Row) -> bool:
    """Whether the words of the row are given, and do not have to be found in a text."""
    return row.values.get("tokens") is not None


def word_place(row: Row, at: int) -> RowLocation:
    """Where word number `at` of the row is, counted from 0."""
    lines = row.values.get("line_numbers")
    if isinstance(lines, list) and at < len(lines):
        return RowLocation(place_in_words(row.path, lines[at], row.item), row.key)
    if row.line and not row.item and "column_1" in row.values:  # columns of words, whatever the file is called
        return RowLocation(place_in_words(row.path, row.line + at, 0), row.key)
    return row.word(at)


def words_of(row: Row, *, keep_inner: bool) -> Words:
    """The words of a sound row; those of a text are found with or without `keep_inner` (split_words)."""
    if not has_tokens(row):
        text: str = row.values["text"]
        return Words(text, split_words(text, keep_inner=keep_inner))
    tokens = read_list(row.values["tokens"], "tokens", Counter())
    if placed := _placed(tokens, row.values.get("text")):
        return placed
    ends = [0]
    for token in map(_word, tokens):
        ends.append(ends[-1] + len(token) + 1)
    offsets = [(start, end - 1) for start, end in pairwise(ends)]
    return Words(" ".join(map(_word, tokens)), offsets)


def read_list(value: Any, column: str, readings: Readings) -> Any:
    """The list that a text holds, or its words or tags separated by blanks; other values as they are."""
    if not isinstance(value, str):
        return value
    items = parse_list(value, has_bare_items=column == "tags")
    if items is not None:
        readings[f"{column}: {{rows}} with a list within a text", ""] += 1
        return items
    readings[f"{column}: {{rows}} with a text, split at blanks", ""] += 1
    if column == "tags" and "," in value:
        return [tag for part in value.split(",") for tag in part.split()]
    return value.split()


def check_words(row: Row, faults: Faults) -> None:
    """Adds what is wrong with the columns that the model reads."""
    if not has_tokens(row):
        if "text" in row.values:
            check_text(row, "text", faults)
        else:
            faults.add(row, f"neither tokens nor text; found: {', '.join(row.columns)}")
        return
    tokens = read_list(row.values["tokens"], "tokens", Counter())
    if not isinstance(tokens, list) or not tokens:
        faults.add(row, f"tokens: expected a list of words, got {shown(row.values['tokens'])}")
        return
    if _placed(tokens, row.values.get("text")) is not None:
        return
    for at, token in enumerate(tokens):
        word = _word(token)
        if not isinstance(word, str) or not word.strip():
            faults.add(word_place(row, at), f"token {at + 1}: expected a word, got {shown(token)}")


def tags_of_row(row: Row, notation: TagNotation, faults: Faults, readings: Readings) -> list[str] | None:
    """The tags of the row's words, or None if it has spans; adds what is wrong with its form."""
    check_words(row, faults)
    values = row.values
    if is_unlabeled(values):
        return None
    if not has_tokens(row) or (values.get("tags") is None and values.get("spans") is not None):
        if "text" in values or has_tokens(row):
            _check_spans(row, faults)
        return None
    tokens = read_list(values["tokens"], "tokens", readings)
    tags = read_list(values.get("tags"), "tags", readings)
    if not isinstance(tags, list) or not all(type(tag) in (str, int) for tag in tags):
        found = ", ".join(name for name in row.columns if name != "line_numbers")
        expected = "tags: expected a list of names such as B-PER"
        faults.add(row, f"no tags; found: {found}" if tags is None else f"{expected}, got {shown(values['tags'])}")
        return []
    if isinstance(tokens, list) and len(tags) != len(tokens):
        faults.add(row, f"{len(tags)} tags for {len(tokens)} tokens")
        return []
    if not notation.are_types and all(type(tag) is str and split_tag(tag) is not None for tag in tags):
        return tags
    read: list[str] = []
    for at, tag in enumerate(tags):
        try:
            read.append(notation.read(tag, readings))
        except ValueError as error:
            faults.add(word_place(row, at), f"tag {at + 1}: {error}")
            return []
    return read


def _check_spans(row: Row, faults: Faults) -> None:
    """Adds a fault if the row has no list of spans."""
    given = row.values.get("spans")
    if spans_in(given) is not None:
        return
    if given is not None or "spans" in row.values:
        faults.add(row, f"spans: expected a list, got {shown(given)}")
    elif row.columns == ("text",) and row.line and not row.item and ending_of(row.path) not in _OBJECTS:
        faults.add(
            row,
            "no spans; this was read as lines of text: if each is a word and its tag, set format: conll for it",
        )
    else:
        faults.add(row, "no spans; use [] for a text without entities")


def spans_of_row(row: Row, words: Words, faults: Faults, readings: Readings) -> list[Span]:
    """The spans of the row, as word positions; adds spans that are malformed, overlap, or split a word.

    Spans that had to be moved are counted in the readings.
    """
    text, offsets = words
    first_at = {start: word for word, (start, _) in enumerate(offsets)}
    end_at = {end: word + 1 for word, (_, end) in enumerate(offsets)}
    spans: list[Span] = []
    for given in spans_in(row.values["spans"]) or []:
        found = read_span(given)
        if found is not None and (moved := _from_utf_16(found, text)) is not None:
            readings["spans: {count} count UTF-16 units, as JavaScript does; moved to where their texts are", ""] += 1
            found = moved
        span, what = _trimmed(found, given, text, needs_text=has_tokens(row) and text != row.values.get("text"))
        if span is None:
            faults.add(row, what)
            continue
        start, end, label = span
        if start in first_at and end in end_at:
            spans.append(Span(first_at[start], end_at[end], label))
            continue
        cut = next((text[a:b] for a, b in offsets if a < start < b or a < end < b), text[start:end])
        faults.add(row, f"span {text[start:end]!r:.60} ({start} to {end}, {label}) splits the word {cut!r:.60}")
    spans.sort()
    for one, two in pairwise(spans):
        if two.start < one.end:
            faults.add(row, f"spans overlap at {text[offsets[two.start][0] :]!r:.40} ({one.type}, {two.type})")
    return spans


def _trimmed(span: GivenSpan | None, given: Any, text: str, *, needs_text: bool) -> tuple[Span | None, str]:
    """The span in characters, without spaces at its ends; None and what is wrong with it, if something is.

    With `needs_text`, the span has to say what it covers: it might count words.
    """
    inside = text[span.start : span.end] if span and 0 <= span.start < span.end <= len(text) else ""
    if span is None or not span.labels or not inside.strip():
        return None, f"span {given!r:.80}: expected start and end (0 to {len(text)}) around words, and a label"
    if len(span.labels) > 1:
        return None, f"span {given!r:.80}: has {len(span.labels)} labels, but a word has one tag; keep one of them"
    if span.text is None and needs_text:
        return None, f"span {given!r:.80}: does not say its text, so it may count characters or words; give tags"
    if span.text is not None and _plain(span.text) != _plain(inside):
        return (
            None,
            f"span {span.start} to {span.end}: the text there is {inside!r:.40}, but the row says {span.text!r:.40}",
        )
    start, end = span.end - len(inside.lstrip()), span.start + len(inside.rstrip())
    return Span(start, end, span.labels[0]), ""


def _from_utf_16(span: GivenSpan, text: str) -> GivenSpan | None:
    """The span in characters, if its positions count UTF-16 units and by that agree with its text; None otherwise."""
    if not span.text or span.start < 0 or text[span.start : span.end] == span.text or text.isascii():
        return None
    units = text.encode("utf-16-le", errors="surrogatepass")
    before, inside = units[: 2 * span.start], units[2 * span.start : 2 * span.end]
    if inside != span.text.encode("utf-16-le", errors="surrogatepass"):
        return None
    start = len(before.decode("utf-16-le", errors="ignore"))
    return span._replace(start=start, end=start + len(span.text))


def _plain(text: str) -> str:
    return " ".join(text.replace("\\n", " ").split())


def _word(token: Any) -> Any:
    """The word of a token that is an object; other tokens as they are."""
    if isinstance(token, Mapping):
        return next((token[key] for key in _WORD_KEYS if key in token), None)
    return token


def _placed(tokens: Any, text: Any) -> Words | None:
    """The text and the words in it, for tokens that say where they are; None for others. Blank tokens are no words."""
    if not isinstance(text, str) or not isinstance(tokens, list):
        return None
    if not all(isinstance(one, Mapping) for one in tokens):
        return None
    given = [(one.get("start"), one.get("end"), _word(one)) for one in tokens]
    if not all(type(start) is int and type(end) is int and text[start:end] == word for start, end, word in given):
        return None
    offsets = [(start, end) for start, end, word in given if word.strip()]
    return Words(text, offsets) if offsets else None
