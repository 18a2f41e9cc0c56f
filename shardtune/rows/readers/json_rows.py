"""JSON and JSON Lines: which values are rows, and what is refused although Python's json would accept it."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from shardtune.rows.input_file import File, Record, checked_lines_of, lines_of
from shardtune.rows.row_faults import Faults

MAX_DEPTH = 100
"""Real rows are not nested this deep, and code that walks through them may be recursive."""


def read_json_lines(file: File, faults: Faults) -> Iterator[Record]:
    """The objects of a JSON Lines file, one per line."""
    return _rows_of_lines(file, lines_of(file, faults), faults)


def read_json(file: File, faults: Faults) -> Iterator[Record]:
    """The objects of an array, or of the only such array in an object. Also JSON Lines, because many such files are
    named .json."""
    checked = list(checked_lines_of(file, faults))
    if not faults.are_rows_alone:
        return
    if _are_json_lines([line for _, line, _ in checked]):
        file.say(f"{file.path}: read as JSON Lines, because every line is an object")
        for number, _, what in checked:
            if what is not None:
                faults.add(file.place(number), what)
        yield from _rows_of_lines(file, ((number, line) for number, line, what in checked if what is None), faults)
        return
    for number, _, what in checked:
        if what is not None:
            faults.add(f"{file.path}:{number}", what)
    text = "".join(line for _, line, _ in checked)
    del checked
    if not text.strip() or not faults.are_rows_alone:
        return
    try:
        yield from _rows_of_document(file, text, faults)
    except _Malformed as error:
        faults.add(f"{file.path}:{text.count(chr(10), 0, error.at) + 1}", error.what)


class _Malformed(Exception):
    """Nothing can be parsed from this position on."""

    def __init__(self, what: str, at: int) -> None:
        super().__init__(what)
        self.what = what
        self.at = at


class _Value(NamedTuple):
    value: Any
    end: int
    what: str | None
    """What is wrong with the value, or None."""


class _Decoder:
    """Python's json, without the extensions that nobody can have meant."""

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._json = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._number
        )

    def value(self, text: str, at: int = 0) -> _Value:
        """Return the value that begins at or after this position. Raises _Malformed."""
        self._problems.clear()
        at = _after_blanks(text, at)
        try:
            value, end = self._json.raw_decode(text, at)
        except RecursionError:
            raise _Malformed(f"nested more than {MAX_DEPTH} deep", at) from None
        except json.JSONDecodeError as error:
            reason = error.msg.removesuffix(" at").removesuffix(" starting")
            raise _Malformed(f"not JSON: {reason[:1].lower()}{reason[1:]}", error.pos) from None
        except ValueError:  # int() refuses more than 4300 digits
            raise _Malformed("a number with too many digits", at) from None
        what = self._problems[0] if self._problems else _what_is_wrong(value, text, at, end)
        return _Value(value, end, what)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            duplicate = next(name for at, name in enumerate(names) if name in names[:at])
            self._problems.append(f"the key {duplicate!a:.60} occurs twice in one object")
        return values

    def _constant(self, name: str) -> None:
        self._problems.append(f"{name} is not JSON; write null or a number")

    def _number(self, text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            self._problems.append(f"the number {text:.40} is too large")
        return number


_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_BLANKS = re.compile(r"[ \t\r\n]*")


def _after_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def _what_is_wrong(value: Any, text: str, start: int, end: int) -> str | None:
    is_deep = text.count("[", start, end) + text.count("{", start, end) > MAX_DEPTH
    if not is_deep and not _HALF.search(text, start, end):
        return None
    pending = [(value, 0)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, str):
            if any("\ud800" <= character <= "\udfff" for character in value):
                return "an escape from \\ud800 to \\udfff is half a character (a lone surrogate)"
        elif isinstance(value, dict | list):
            if depth == MAX_DEPTH:
                return f"nested more than {MAX_DEPTH} deep"
            inside = [*value, *value.values()] if isinstance(value, dict) else value
            pending += [(item, depth + 1) for item in inside]
    return None


def _rows_of_lines(file: File, lines: Iterable[tuple[int, str]], faults: Faults) -> Iterator[Record]:
    decoder = _Decoder()
    pairs = _Pairs(file)
    for number, line in lines:
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        try:
            value, end, what = decoder.value(line)
            if (end := _after_blanks(line, end)) < len(line):
                raise _Malformed("not JSON: text after the end of the value", end)
        except _Malformed as error:
            hint = "; name a JSON document of several lines .json" if line.strip() in ("[", "{") else ""
            faults.add(file.place(number), f"{error.what} (character {error.at + 1} of the line){hint}")
            continue
        if _is_pair(value):
            value = pairs.object_of(value)
        if what is None and isinstance(value, dict):
            yield Record(value, number)
        else:
            faults.add(file.place(number), what or _not_an_object(value))


def _are_json_lines(lines: Iterable[str]) -> bool:
    """Whether the lines cannot be a single JSON document: `{…}`, and on the next line `{`."""
    first, second, *_ = [*islice((bare for line in lines if (bare := line.strip())), 2), "", ""]
    return first.startswith("{") and first.endswith("}") and second.startswith("{")


def _rows_of_document(file: File, text: str, faults: Faults) -> Iterator[Record]:
    decoder = _Decoder()
    start = _after_blanks(text, 0)
    is_whole = text[start] == "["
    if text[start] == "{":
        start, key = _only_array(decoder, text, start)
        file.say(f"{file.path}: using the rows in {key!r}")
    elif not is_whole:
        raise _Malformed("expected an array of objects, or an object that holds one", start)
    pairs = _Pairs(file)
    line, counted = 1, 0
    for item, (value, at, what) in enumerate(_items(decoder, text, start, is_whole=is_whole), start=1):
        line, counted = line + text.count("\n", counted, at), at
        if _is_pair(value):
            value = pairs.object_of(value)
        if what is None and isinstance(value, dict):
            yield Record(value, line, item)
        else:
            faults.add(file.place(line, item=item), what or _not_an_object(value))


def _items(decoder: _Decoder, text: str, at: int, *, is_whole: bool) -> Iterator[tuple[Any, int, str | None]]:
    """Each item of the array that begins here, its position, and what is wrong with it; nothing may follow an array
    that is the whole text."""
    at = _after_blanks(text, at + 1)
    is_closed = text[at : at + 1] == "]"
    at += is_closed
    while not is_closed:
        value, end, what = decoder.value(text, at)
        yield value, at, what
        at, is_closed = _after_item(text, end, "]")
    if is_whole:
        _refuse_more(text, at)


def _only_array(decoder: _Decoder, text: str, at: int) -> tuple[int, str]:
    """Return the position and the key of the only array of objects in the object that begins here. Raises
    _Malformed."""
    begin = at
    starts: dict[str, int] = {}
    keys: dict[str, None] = {}
    at = _after_blanks(text, at + 1)
    is_closed = text[at : at + 1] == "}"
    at += is_closed
    while not is_closed:
        key, end, _ = decoder.value(text, at)
        if not isinstance(key, str):
            raise _Malformed("not JSON: expected a key in quotes", at)
        if key in keys:
            raise _Malformed(f"the key {key!a:.60} occurs twice in one object", at)
        keys[key] = None
        colon = _after_blanks(text, end)
        if text[colon : colon + 1] != ":":
            raise _Malformed("not JSON: expected ':' after a key", colon)
        start = _after_blanks(text, colon + 1)
        value, end, _ = decoder.value(text, start)
        if isinstance(value, list) and value and all(isinstance(item, dict) or _is_pair(item) for item in value):
            starts[key] = start
        at, is_closed = _after_item(text, end, "}")
    _refuse_more(text, at)
    if len(starts) == 1:
        ((key, start),) = starts.items()
        return start, key
    arrays = f"several: {_listed(starts)}; write a file for each" if starts else f"none; its keys: {_listed(keys)}"
    raise _Malformed(f"expected an array of objects, or an object that holds one; this one holds {arrays}", begin)


def _after_item(text: str, at: int, closing: str) -> tuple[int, bool]:
    """Return the position of the next item, or the position after the closing mark, and whether that was the last
    item."""
    at = _after_blanks(text, at)
    if (mark := text[at : at + 1]) not in (",", closing):
        raise _Malformed(f"not JSON: expected ',' or '{closing}'", at)
    return _after_blanks(text, at + 1) if mark == "," else at + 1, mark == closing


def _refuse_more(text: str, at: int) -> None:
    if (at := _after_blanks(text, at)) < len(text):
        raise _Malformed("not JSON: text after the end of the value", at)


_ANNOTATIONS = frozenset({"entities", "cats", "spans"})


def _is_pair(value: Any) -> bool:
    """Whether it is a text and its annotations, as spaCy has them: `["Ann left", {"entities": [[0, 3, "PER"]]}]`."""
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        return False
    return isinstance(value[1], dict) and not _ANNOTATIONS.isdisjoint(value[1])


class _Pairs:
    """The pairs in a file, of which the user is told at the first one."""

    def __init__(self, file: File) -> None:
        self._file, self._were_found = file, False

    def object_of(self, pair: list[Any]) -> dict[str, Any]:
        """The annotations, with the text as `text`."""
        if not self._were_found:
            self._file.say(f"{self._file.path}: a row of a text and an object is read as an object with this `text`")
        self._were_found = True
        text, annotations = pair
        return {"text": text, **{name: item for name, item in annotations.items() if name != "text"}}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(ascii(name)[1:-1][:40] for name in islice(names, 10)) or "(none)"


def _not_an_object(value: Any) -> str:
    return f'expected an object such as {{"text": …}}, got {_NAMES[type(value)]}'


_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
