"""Columns of words, as in CoNLL and its kinds: one word a line, with its tag and whatever else is known of it.

Which column has the words and which the tags is decided by the first lines of a file. What is unusual is reported.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from shardtune.rows.input_file import File, Record, checked_lines_of
from shardtune.rows.row_faults import Faults

HEAD_LINES = 5000
"""The layout of a file is decided by so many of its first lines."""
CONLL_U_COLUMNS = 10
MOST = 0.9
"""The share of the words by which a column counts as one of tags, so that a wrong tag does not hide it."""

_TAG = re.compile(r"[Oo]|[BIESLUM][-_]?|[BIESLUMbieslum][-_]\S.*|\S.*[-_][BIESLUM]")
_TYPED = re.compile(r"[BIESLUMbieslum][-_]\S.*|\S.*[-_][BIESLUM]")
_PART = re.compile(r"\d+(?:(-)|\.)\d+")
"""The number of a range of CoNLL-U (1-2), whose words follow, or of an empty node (1.1), which is not in the text."""
_WORD_NAMES = frozenset({"token", "tokens", "word", "words", "form", "text"})
_TAG_NAMES = frozenset({"tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "iob", "bio", "entity", "ne"})
_PREFERRED_KEYS = ("ner", "ne", "name")


class _Layout(NamedTuple):
    """How the lines of a file are read. Columns are counted from 0."""

    is_tabbed: bool
    width: int
    """The number of columns of the file's first word."""
    word: int = 0
    tag: int | None = None
    """The column of the tags; None if there are only words."""
    tag_key: str | None = None
    """The tags are in that column as KEY=TAG, among others that are separated by `|`."""
    is_numbered: bool = False
    """The first column has the number of each word in its sentence."""
    header: tuple[str, ...] = ()
    """The cells of the first line, if that names the columns."""
    are_tags_known: bool = False
    """The cells of the tag column look like tags."""

    def cells(self, line: str) -> list[str]:
        """The cells of a line; in a file with tabs, words may contain blanks."""
        line = line.rstrip("\r\n\t ")
        if self.is_tabbed and "\t" in line:
            return [cell.strip(" ") for cell in line.split("\t")]
        return [cell for cell in line.replace("\t", " ").split(" ") if cell]

    def is_comment(self, line: str, cells: Sequence[str], *, is_inside: bool) -> bool:
        """Whether the line is a comment and not the word `#`; `is_inside` a sentence, `#` alone is a word without a
        tag."""
        if not line.startswith("#"):
            return False
        if self.is_numbered:
            return True
        if len(cells) == self.width:
            return self.are_tags_known and self.tag is not None and not _TAG.fullmatch(cells[self.tag])
        return not is_inside or (line.startswith("# ") and len(cells) > 1)

    def tag_of(self, cells: Sequence[str]) -> str:
        """The tag of a word; O for a word without the key."""
        assert self.tag is not None
        return cells[self.tag] if self.tag_key is None else _pairs(cells[self.tag]).get(self.tag_key, "O")


def read_conll(file: File, faults: Faults) -> Iterator[Record]:
    """The sentences of a file, which end at blank lines and at -DOCSTART-: `tokens`, `tags`, and all columns by number
    as `column_1` and so on.

    Words are in the first column, or in the second if the first numbers them; tags are in the last column that holds
    tags. If the words of a sentence are not on successive lines, it has their `line_numbers`.
    """
    lines = checked_lines_of(file, faults)
    head = list(islice(lines, HEAD_LINES))
    layout = _layout_of([line for _, line, what in head if what is None])
    if layout is None:
        layout = _Layout(is_tabbed=False, width=1)
    sentence = _Sentence(layout, file)
    left_out: Counter[str] = Counter()
    header_is_due = bool(layout.header)
    for number, line, what in chain(head, lines):
        cells = layout.cells(line)
        if what is None and (not line.strip() or cells[0].startswith("-DOCSTART-")):
            yield from sentence.take()
        elif what is None and line[0] == "#" and layout.is_comment(line, cells, is_inside=bool(sentence)):
            left_out["comment lines"] += 1
        elif what is None and header_is_due:
            header_is_due = False
        elif what is None and layout.is_numbered and (part := _PART.fullmatch(cells[0])):
            left_out["ranges such as 1-2" if part[1] else "empty nodes such as 1.1"] += 1
        else:
            if what is None and len(cells) != layout.width:
                what = f"{len(cells)} columns, but the file's first word has {layout.width}"
            sentence.add(number, cells, is_sound=what is None)
            if what is not None:
                faults.add(file.place(number, of_row=sentence.first), what)
    yield from sentence.take()
    for text in _notes(layout, left_out):
        file.say(f"{file.path}: {text}")


def looks_like_conll(lines: Sequence[str]) -> bool:
    """Whether the first lines of a file are words with tags, one a line, and not texts or a table."""
    layout = _layout_of(lines)
    if layout is None or layout.width < 2 or layout.tag is None:
        return layout is not None and layout.is_numbered and layout.width == CONLL_U_COLUMNS
    words = list(chain.from_iterable(_sentences(lines, layout)))
    whole = [cells for cells in words if len(cells) == layout.width]
    tags = [layout.tag_of(cells) for cells in whole]
    if not whole or len(whole) < MOST * len(words) or not all(map(_TAG.fullmatch, tags)):
        return False
    has_types, has_outside = any(map(_TYPED.fullmatch, tags)), not {"O", "o"}.isdisjoint(tags)
    are_words = sum(" " in cells[layout.word] for cells in whole) * 3 <= len(whole)
    is_plenty = len(whole) >= (2 if has_outside else 5)
    return are_words and is_plenty and (has_types or (has_outside and not layout.header))


class _Sentence:
    """The sentence that is being read."""

    def __init__(self, layout: _Layout, file: File) -> None:
        self._layout, self._file = layout, file
        self._words: list[Sequence[str]] = []
        self._numbers: list[int] = []
        self._is_sound = True

    def __bool__(self) -> bool:
        return bool(self._words)

    @property
    def first(self) -> int:
        """The line of the first word."""
        return self._numbers[0]

    def add(self, number: int, cells: Sequence[str], *, is_sound: bool) -> None:
        """Adds the word on line `number`; a sentence with a word that is not sound is no row."""
        self._words.append(cells)
        self._numbers.append(number)
        self._is_sound &= is_sound

    def take(self) -> Iterator[Record]:
        """The sentence as a row, if it is one; the next sentence begins."""
        if self._words and self._is_sound:
            yield Record(self._values(), self.first)
        self._words, self._numbers, self._is_sound = [], [], True

    def _values(self) -> dict[str, Any]:
        columns = [list(column) for column in zip(*self._words, strict=True)]
        values: dict[str, Any] = {"tokens": columns[self._layout.word]}
        if self._layout.tag_key is not None:
            values["tags"] = [self._layout.tag_of(cells) for cells in self._words]
        elif self._layout.tag is not None:
            values["tags"] = columns[self._layout.tag]
        if len(columns) > 1:
            values |= {f"column_{number}": column for number, column in enumerate(columns, start=1)}
        if self._numbers[-1] - self.first >= len(self._numbers):
            values["line_numbers"] = self._numbers
        return values


def _layout_of(lines: Sequence[str]) -> _Layout | None:
    """The layout of a file that begins with these lines; None if there is no word in them."""
    filled = [line for line in lines if line.strip() and not line.startswith("-DOCSTART-")]
    filled = [line for line in filled if not line.startswith("#")] or filled
    if not filled:
        return None
    layout = _Layout(is_tabbed=sum("\t" in line.rstrip("\r\n\t ") for line in filled) * 2 > len(filled), width=0)
    width = len(layout.cells(filled[0]))
    layout = layout._replace(width=width)
    sentences = [
        [cells for cells in sentence if len(cells) == width] for sentence in _sentences(lines, layout, has_notes=True)
    ]
    words = list(chain.from_iterable(sentences))
    header = tuple(cell.casefold() for cell in words[0]) if words else ()
    if not _WORD_NAMES.isdisjoint(header) and not _TAG_NAMES.isdisjoint(header):
        layout = layout._replace(header=header)
        next(filter(None, sentences)).pop(0)
        words = words[1:]
    if width == 1:
        return layout
    if _are_numbered(sentences):
        layout = layout._replace(is_numbered=True, word=1)
        words = [cells for cells in words if not _PART.fullmatch(cells[0])]
    return _with_tags(layout, words)


def _sentences(lines: Iterable[str], layout: _Layout, *, has_notes: bool = False) -> list[list[list[str]]]:
    """The cells of the words of each sentence. With `has_notes`, the layout is not known yet, and no line that begins
    with # counts."""
    sentences: list[list[list[str]]] = [[]]
    for line in lines:
        cells = layout.cells(line)
        if not line.strip() or cells[0].startswith("-DOCSTART-"):
            sentences.append([])
        elif has_notes and line.startswith("#"):
            continue
        elif not layout.is_comment(line, cells, is_inside=bool(sentences[-1])):
            sentences[-1].append(cells)
    found = [sentence for sentence in sentences if sentence]
    if layout.header and found:
        found[0] = found[0][1:]
    return found


def _are_numbered(sentences: Sequence[Sequence[Sequence[str]]]) -> bool:
    """Whether the first column counts the words, from 0 or 1 in each sentence or throughout the file."""
    previous, longest = -1, 0
    for sentence in sentences:
        numbers = [cells[0] for cells in sentence if not _PART.fullmatch(cells[0])]
        if not all(number.isascii() and number.isdigit() and len(number) < 10 for number in numbers):
            return False
        for at, number in enumerate(map(int, numbers)):
            if number != previous + 1 and not (at == 0 and number in (0, 1)):
                return False
            previous = number
        longest = max(longest, len(numbers))
    return longest > 1


def _with_tags(layout: _Layout, words: Sequence[Sequence[str]]) -> _Layout:
    """The layout with the column of tags that these words have, all of as many columns."""
    last = layout.width - 1
    tagged = [column for column in range(layout.width) if column != layout.word and _are_tags(words, column)]
    if layout.word == 0 and last not in tagged and _are_tags(words, 0):
        return layout._replace(word=1, tag=0, are_tags_known=True)
    if tagged:
        return layout._replace(tag=last if last in tagged else tagged[-1], are_tags_known=True)
    if layout.is_numbered and layout.width == CONLL_U_COLUMNS and layout.is_tabbed:
        key = _tag_key(cells[last] for cells in words)
        return layout if key is None else layout._replace(tag=last, tag_key=key)
    return layout._replace(tag=last) if last != layout.word else layout


def _are_tags(words: Sequence[Sequence[str]], column: int) -> bool:
    num_tags = sum(_TAG.fullmatch(cells[column]) is not None for cells in words)
    return num_tags > 0 and num_tags >= MOST * len(words)


def _pairs(cell: str) -> dict[str, str]:
    """The keys and values of a cell such as `SpaceAfter=No|NER=B-PER`."""
    return {key: value for key, equals, value in (pair.partition("=") for pair in cell.split("|")) if equals}


def _tag_key(cells: Iterable[str]) -> str | None:
    """The key whose values are tags; None if there is none."""
    values: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in _pairs(cell).items():
            values.setdefault(key, set()).add(value)
    of_tags = {key: found for key, found in values.items() if all(map(_TAG.fullmatch, found))}
    keys = [key for key, found in of_tags.items() if any(map(_TYPED.fullmatch, found))]
    preferred = (key for name in _PREFERRED_KEYS for key in keys if key.casefold() == name)
    return next(preferred, keys[0] if keys else None)


def _notes(layout: _Layout, left_out: Counter[str]) -> Iterator[str]:
    """What is unusual about the file, for the user."""
    if layout.header:
        yield f"the first line names the columns ({', '.join(layout.header)[:60]}) and is no word"
    if layout.word > 0 or layout.tag not in (None, layout.width - 1) or layout.tag_key is not None:
        key = f", as {layout.tag_key}=… (O for a word without it)" if layout.tag_key is not None else ""
        tags = "there are no tags" if layout.tag is None else f"the tags in column {layout.tag + 1}{key}"
        yield f"the words are in column {layout.word + 1}, {tags} (data.columns chooses others)"
    if left_out:
        yield f"left out: {', '.join(f'{kind} ({count:,})' for kind, count in left_out.items())}"
