"""Columns of words: one word per line with its tags, and a blank line after each sentence."""

from collections.abc import Iterator, Sequence
from typing import Any

from shardtune.rows.input_file import File, Record, checked_lines_of
from shardtune.rows.row_faults import Faults


def read_conll(file: File, faults: Faults) -> Iterator[Record]:
    """Sentences with one word per line and its columns; they end at blank lines and at -DOCSTART-."""
    sentence: list[list[str]] = []
    first, width, is_sound = 0, 0, True

    def rows() -> Iterator[Record]:
        if sentence and is_sound:
            yield Record(_columns(sentence), first)

    for number, line, what in checked_lines_of(file, faults):
        line = line.rstrip("\r\n")
        cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
        if what is None and (not line.strip() or cells[0] == "-DOCSTART-"):
            yield from rows()
            sentence.clear()
            continue
        if not sentence:
            first, is_sound = number, True
        sentence.append(cells)
        if what is None:
            width = width or len(cells)
            if len(cells) != width:
                what = f"{len(cells)} columns, but the file's first word has {width}"
        if what is not None:
            is_sound = False
            faults.add(file.place(number, of_row=first), what)
    yield from rows()


def _columns(sentence: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The first column as `tokens`, the last as `tags`, those between as `column_2` and so on."""
    tokens, *others = (list(column) for column in zip(*sentence, strict=True))
    between = {f"column_{number}": column for number, column in enumerate(others[:-1], start=2)}
    return {"tokens": tokens, **({"tags": others[-1]} if others else {}), **between}


def looks_like_conll(lines: Sequence[str]) -> bool:
    """Whether the first lines of a file are words with tags."""
    return False
