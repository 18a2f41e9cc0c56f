"""Parallel text: translation memories (TMX), and pairs of line-aligned files.

A row has one column per language, named as in the file: `{"en-US": …, "fr": …}`.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any
from xml.parsers import expat

from shardtune.rows.input_file import File, Record, checked_lines_of
from shardtune.rows.row_faults import Faults, RowLocation

NATIVE = frozenset({"bpt", "ept", "it", "ph", "ut", "sub"})
"""Elements within a TMX text that hold the markup of another format, which is not part of the text (TMX 1.4b, 3.2)."""
BYTES_AT_ONCE = 1 << 16


def read_tmx(file: File, faults: Faults) -> Iterator[Record]:
    """The translation units of a TMX file, in any encoding that its XML declares; no other file is ever opened."""
    reader = _TmxReader(file, faults)
    try:
        with file.open() as stream:
            while chunk := stream.read(BYTES_AT_ONCE):
                yield from reader.feed(chunk)
        yield from reader.feed(b"", is_last=True)
    except _Unreadable as error:
        faults.add(f"{file.path}:{error.line}", error.what)


class _Unreadable(Exception):
    """Nothing can be read from this line on."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


class _TmxReader:
    """Receives a TMX file in chunks and yields its units as they end."""

    def __init__(self, file: File, faults: Faults) -> None:
        self._file, self._faults = file, faults
        self._ready: list[Record] = []
        self._open: list[str] = []
        """The open elements, from the outermost one."""
        self._num_units = 0
        self._unit_line = 0
        self._values: dict[str, Any] | None = None
        """The texts of the open unit, by language."""
        self._problems: list[tuple[int, str]] = []
        self._language: str | None = None
        self._text: list[str] | None = None
        """The pieces of the open <seg>."""
        self._num_texts = 0
        parser = self._parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._characters
        parser.EntityDeclHandler = self._refuse_entity
        parser.SkippedEntityHandler = self._refuse_unknown

    def feed(self, chunk: bytes, *, is_last: bool = False) -> Iterator[Record]:
        """The units that end in this chunk. Raises _Unreadable after those that could still be read."""
        error: _Unreadable | None = None
        try:
            self._parser.Parse(chunk, is_last)
        except expat.ExpatError as cause:
            error = _Unreadable(f"not XML from here on ({expat.ErrorString(cause.code)})", cause.lineno)
        except (LookupError, ValueError) as cause:
            error = _Unreadable(f"the encoding cannot be read ({cause}); convert the file to UTF-8", 1)
        except _Unreadable as cause:
            error = cause
        yield from self._ready
        self._ready.clear()
        if error is not None:
            raise error

    @property
    def _line(self) -> int:
        return self._parser.CurrentLineNumber

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "tmx":
            raise _Unreadable(f"expected a <tmx> document, got <{name[:40]}>", self._line)
        parent = self._open[-1] if self._open else ""
        self._open.append(name)
        if name == "tu":
            if self._values is not None:
                raise _Unreadable("a <tu> within a <tu>", self._line)
            self._num_units += 1
            self._unit_line, self._values = self._line, {}
        elif name == "tuv" and parent == "tu":
            self._num_texts = 0
            self._language = attributes.get("xml:lang", attributes.get("lang", "")).strip() or None
            if self._language is None:
                self._problem("a <tuv> without xml:lang")
        elif name == "seg" and parent == "tuv":
            self._text = []

    def _end(self, name: str) -> None:
        self._open.pop()
        parent = self._open[-1] if self._open else ""
        if name == "seg" and parent == "tuv" and self._text is not None:
            self._end_text(re.sub(r"\s*\n\s*", " ", "".join(self._text)).strip())
            self._text = None
        elif name == "tuv" and parent == "tu" and self._num_texts != 1:
            self._problem(f"{self._num_texts} <seg> in a <tuv>; expected one")
        elif name == "tu":
            self._end_unit()

    def _end_text(self, text: str) -> None:
        self._num_texts += 1
        if self._values is None or self._language is None or self._num_texts > 1:
            return
        if self._language in self._values:
            self._problem(f"two texts in {self._language[:40]}")
        elif not text:
            self._problem(f"the text in {self._language[:40]} is blank")
        self._values[self._language] = text

    def _end_unit(self) -> None:
        values, self._values = self._values, None
        if not values and not self._problems:
            self._problem("a <tu> without any text")
        if not self._problems and values:
            self._ready.append(Record(values, self._unit_line, self._num_units))
        for line, what in self._problems:
            place = self._file.place(line, item=self._num_units, of_row=self._unit_line)
            self._faults.add(place, what)
        self._problems.clear()

    def _characters(self, text: str) -> None:
        if self._text is not None and NATIVE.isdisjoint(self._open):
            self._text.append(text)

    def _problem(self, what: str) -> None:
        self._problems.append((self._line, what))

    def _refuse_entity(self, name: str, *_: Any) -> None:
        # A few lines of entities can expand to gigabytes, or include any file of the machine.
        raise _Unreadable(f"declares the entity {name[:40]!r}; replace it with its text", self._line)

    def _refuse_unknown(self, name: str, _: bool) -> None:
        raise _Unreadable(f"unknown entity &{name[:40]};", self._line)


def sides_of(path: Path) -> dict[str, Path]:
    """`corpus.{en,fr}` -> its two files, by the text in braces; empty if the path is not such a pair."""
    match = re.fullmatch(r"([^{}]*)\{([^{},]+),([^{},]+)\}([^{}]*)", path.name)
    if match is None or path.exists():
        return {}
    before, one, other, after = match.groups()
    if one == other:
        return {}
    return {name: path.with_name(f"{before}{name}{after}") for name in (one, other)}


def read_aligned(file: File, faults: Faults) -> Iterator[Record]:
    """The lines of both files of a pair side by side, except those that are blank in both."""
    sides = sides_of(file.path)
    own = Faults()
    counts = dict.fromkeys(sides, 0)
    streams = [checked_lines_of(replace(file, path=path), own) for path in sides.values()]
    for number, lines in enumerate(zip_longest(*streams), start=1):
        texts: dict[str, str] = {}
        is_sound = True
        for (name, path), checked in zip(sides.items(), lines, strict=True):
            if checked is None:
                is_sound = False
                continue
            counts[name] = number
            _, line, what = checked
            texts[name] = line.strip()
            if what is not None:
                is_sound = False
                own.add(_place(file, path, number), what)
        if not is_sound or not any(texts.values()):
            continue
        blank = [name for name, text in texts.items() if not text]
        for name in blank:
            own.add(_place(file, sides[name], number), "blank, but the other side is not")
        if not blank:
            yield Record(dict(texts), number)
    if own.are_rows_alone and len(set(counts.values())) > 1:
        lengths = ", ".join(f"{sides[name].name} has {count:,}" for name, count in counts.items())
        own.add(file.path, f"different numbers of lines ({lengths}), so the files are not aligned")
    faults.update(own)


def _place(file: File, path: Path, line: int) -> RowLocation:
    """The location of a line of one side, which is part of one row of the pair."""
    return RowLocation(f"{path}:{line}", (file.path, line, 0), was_read=False)
