"""Tag schemes, the spans that tags represent, and windows of long sentences that split no span.

Pure functions on lists. A span is (first word, word after the last, type); internally, tags are BIO.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

Scheme = Literal["bio", "iob1", "bioes"]
OUTSIDE = "O"
PREFIXES: dict[Scheme, str] = {"bio": "BI", "iob1": "BI", "bioes": "BIES"}
SYNONYMS = {"L": "E", "U": "S", "M": "I"}
"""BILOU and BMES are BIOES with other letters."""


class Span(NamedTuple):
    """An entity: the words from `start` up to but not including `end`."""

    start: int
    end: int
    type: str


class BadTag(NamedTuple):
    """A tag that is illegal at its position."""

    at: int
    what: str


class Window(NamedTuple):
    """The words [first, last) of a sentence; [start, end) are its own, the others are context."""

    first: int
    start: int
    end: int
    last: int
    is_cut: bool = False
    """Whether its own words are the beginning of an entity that is longer than any window."""


@lru_cache(maxsize=1024)
def split_tag(tag: str) -> tuple[str, str] | None:
    """`B-PER` -> ("B", "PER") and `O` -> ("O", ""); None if it is not of this form."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, type_ = tag.partition("-")
    prefix = SYNONYMS.get(prefix, prefix)
    return (prefix, type_) if dash and type_ and prefix in ("B", "I", "E", "S") else None


class Signs(NamedTuple):
    """Evidence for each scheme: the number of BIOES-only tags, and of first words of entities with B- and with I-."""

    num_bioes: int = 0
    num_b: int = 0
    num_i: int = 0


def signs_of(sentences: Iterable[Sequence[str]]) -> Signs:
    """The evidence for each scheme in these tags."""
    num_bioes, num_b, num_i = 0, 0, 0
    for tags in sentences:
        previous = (OUTSIDE, "")
        for tag in tags:
            parts = split_tag(tag) or (OUTSIDE, "")
            num_bioes += parts[0] in ("E", "S") or tag[:2] == "M-"
            if parts[0] != OUTSIDE and parts[1] != previous[1]:
                num_b, num_i = num_b + (parts[0] == "B"), num_i + (parts[0] == "I")
            previous = parts
    return Signs(num_bioes, num_b, num_i)


def detect_scheme(signs: Iterable[Signs]) -> Scheme:
    """The scheme of most entities; BIO without evidence for another.

    A first word with B- is BIO; one with I- is IOB1, which has B- only between adjacent entities of the same type.
    """
    num_bioes, num_b, num_i = (sum(counts) for counts in zip(Signs(), *signs, strict=True))
    if num_bioes:
        return "bioes"
    return "iob1" if num_i > num_b else "bio"


def to_bio(tags: Sequence[str], scheme: Scheme) -> tuple[list[str], list[BadTag], list[BadTag]]:
    """The tags in BIO, the tags that do not belong to the scheme, and the tags that are illegal after the previous one.

    The latter are repaired: an inner tag without an entity begins one, and an entity that is never closed ends there.
    """
    bio, unknown, illegal = [], [], []
    open_type, prefix_before, type_before = "", OUTSIDE, ""
    for at, tag in enumerate(tags):
        parts = split_tag(tag)
        if parts is None or (parts[0] != OUTSIDE and parts[0] not in PREFIXES[scheme]):
            legal = ", ".join([OUTSIDE, *(f"{prefix}-TYPE" for prefix in PREFIXES[scheme])])
            unknown.append(BadTag(at, f"{tag!r} is not a tag of {scheme.upper()}; legal: {legal}"))
            parts = (OUTSIDE, "")
        prefix, type_ = parts
        continues = prefix in ("I", "E") and type_ == open_type and type_ != ""
        after = f"after {tags[at - 1]!r}" if at else "at the start of a sentence"
        if scheme == "bioes" and open_type and not continues:
            illegal.append(BadTag(at, f"{tag!r} {after}: the entity is not closed by E-{open_type}"))
        elif scheme != "iob1" and prefix in ("I", "E") and not continues:
            illegal.append(BadTag(at, f"{tag!r} {after}: no open {type_} entity"))
        elif scheme == "iob1" and prefix == "B" and (prefix_before == OUTSIDE or type_before != type_):
            illegal.append(BadTag(at, f"{tag!r} {after}: IOB1 has B- only directly after an entity of the same type"))
        bio.append(OUTSIDE if prefix == OUTSIDE else f"{'I' if continues else 'B'}-{type_}")
        closes = scheme == "bioes" and prefix in ("E", "S")
        open_type = "" if closes else type_
        prefix_before, type_before = prefix, type_
    if scheme == "bioes" and open_type:
        illegal.append(
            BadTag(len(tags) - 1, f"{tags[-1]!r} at the end of a sentence: the entity is not closed by E-{open_type}")
        )
    return bio, unknown, illegal


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The spans of BIO tags, as conlleval and seqeval read them: an I- that continues nothing begins a span."""
    spans: list[Span] = []
    start, open_type = 0, ""
    for at, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, type_ = tag.partition("-")
        if prefix == "I" and type_ == open_type:
            continue
        if open_type:
            spans.append(Span(start, at, open_type))
        start, open_type = at, type_
    return spans


def tags_of(spans: Iterable[Span], num_words: int) -> list[str]:
    """The BIO tags of spans that do not overlap."""
    tags = [OUTSIDE] * num_words
    for start, end, type_ in spans:
        tags[start:end] = [f"B-{type_}"] + [f"I-{type_}"] * (end - start - 1)
    return tags


def cut_windows(sizes: Sequence[int], spans: Iterable[Span], *, room: int, context: int) -> list[Window]:
    """Windows of at most `room` pieces. Each word is the own word of exactly one window, and no span is split.

    `sizes` are the numbers of pieces per word, at most room / 4 each. `context` is the number of pieces of other words
    on either side, at most room / 4 too. One exception: a span longer than a window is cut. Its words beyond the window
    belong to no window, and that window `is_cut`.
    """
    assert max(sizes) * 4 <= room or sum(sizes) <= room
    before = [0, *accumulate(sizes)]
    num_words, spans = len(sizes), sorted(spans)
    inside = {at for start, end, _ in spans for at in range(start + 1, end)}
    beside = {at for start, end, _ in spans for at in (start, end)}

    def furthest(start: int, pieces: int) -> int:
        return bisect_right(before, before[start] + pieces) - 1

    windows: list[Window] = []
    start = 0
    while start < num_words:
        first = bisect_left(before, before[start] - context)
        left = before[start] - before[first]
        if before[-1] - before[first] <= room:
            windows.append(Window(first, start, num_words, num_words))
            break
        end = _best_cut(start, furthest(start, room - left - context), inside, beside)
        if end is None:  # the span that the window begins with fits only without context
            first, end = start, _best_cut(start, furthest(start, room), inside, beside)
        if end is None:
            end = furthest(start, room)
            windows.append(Window(start, start, end, end, is_cut=True))
            start = next(span.end for span in spans if span.start == start)
            continue
        last = min(furthest(end, context), furthest(first, room))
        windows.append(Window(first, start, end, last))
        start = end
    return windows


def _best_cut(start: int, furthest: int, inside: Container[int], beside: Container[int]) -> int | None:
    """The last cut that splits no span; preferably one that touches none, if the window loses less than half."""
    legal = [at for at in range(furthest, start, -1) if at not in inside]
    apart = (at for at in legal if at not in beside and at - start > (furthest - start) // 2)
    return next(apart, legal[0] if legal else None)


INNER = frozenset("-.,/&+:")
"""Punctuation that tokenized corpora keep inside a word: Al-Ain, U.S, 1,000, 24/7, AT&T, 12:30."""


def split_words(text: str, *, keep_inner: bool) -> list[tuple[int, int]]:
    """The words of a text as (start, end), split at spaces and punctuation; Chinese and Japanese by character.

    With keep_inner, punctuation between two letters or digits stays inside the word, and an apostrophe stays with what
    follows ('s), as in tokenized corpora.
    """
    kinds: list[str] = [_kind(character) for character in text]
    if keep_inner:
        for at, (character, kind) in enumerate(zip(text, kinds, strict=True)):
            near = kinds[at - 1 : at] + kinds[at + 1 : at + 2] if at else []
            if kind == "mark" and character in INNER and near == ["letter", "letter"]:
                kinds[at] = "inner"
            elif character in "'’" and kinds[at + 1 : at + 2] == ["letter"]:
                kinds[at] = "opening"
    joins = {("letter", "letter"), ("letter", "inner"), ("inner", "letter"), ("opening", "letter")}
    starts = [
        at
        for at, kind in enumerate(kinds)
        if kind != "space" and (at == 0 or ((kinds[at - 1], kind) not in joins and not _attaches(text, kinds, at)))
    ]
    ends = []
    for start, following in pairwise([*starts, len(text)]):
        end = start + 1
        while end < following and kinds[end] != "space":
            end += 1
        ends.append(end)
    return list(zip(starts, ends, strict=True))


def _kind(character: str) -> str:
    if character.isspace():
        return "space"
    if "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000":
        return "single" if unicodedata.category(character)[0] == "L" else "mark"
    return "mark" if unicodedata.category(character)[0] in "PSC" else "letter"


def _attaches(text: str, kinds: Sequence[str], at: int) -> bool:
    """Whether the character modifies the previous one: a combining accent, a variation selector, a joiner."""
    return kinds[at - 1] != "space" and (unicodedata.category(text[at])[0] == "M" or text[at] in "\u200c\u200d")
