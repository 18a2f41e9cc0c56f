"""Values of Python as bytes, without pickle: reading them calls nothing that the bytes name, whoever wrote them.

A value is a line of JSON, after which its arrays follow in numpy's format. Of classes, only those that the reader
names are restored, and only their fields: no constructor runs.
"""

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable, Collection
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

_PLAIN = (str, int, float, bool, type(None))
"""The types that JSON keeps as they are; NaN and infinities, too, as Python writes them."""


class UnstorableError(TypeError):
    """A value has a class that is not among those named; a bug of ours."""


def to_bytes(value: Any, classes: Collection[type] = ()) -> bytes:
    """The bytes of a value of plain types, containers, paths, numpy arrays and objects of these classes.

    Raises UnstorableError for any other.
    """
    arrays: list[np.ndarray[Any, Any]] = []
    tree = _encoded(value, set(classes), arrays)
    file = io.BytesIO()
    file.write(_as_line([len(arrays), tree]))
    for array in arrays:
        np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def from_bytes(data: bytes, classes: Collection[type] = ()) -> Any:
    """The value of these bytes. Raises ValueError if they are not of such a value, or name another class."""
    file = io.BytesIO(data)
    try:
        num_arrays, tree = json.loads(file.readline())
        arrays = [np.lib.format.read_array(file, allow_pickle=False) for _ in range(num_arrays)]
        return _decoded(tree, {each.__name__: each for each in classes}, arrays)
    except (TypeError, KeyError, IndexError, AttributeError, EOFError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _encoded(value: Any, classes: set[type], arrays: list[np.ndarray[Any, Any]]) -> Any:
    """The value as JSON has it: a list is itself, and all else that is not plain is {name of its class: content}."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in classes:
        return {kind.__name__: [_encoded(content, classes, arrays) for content in _contents(value)]}
    if isinstance(value, dict):
        if kind not in (dict, Counter):
            raise UnstorableError(f"{kind.__qualname__} cannot be stored")
        return {kind.__name__: _encoded([part for item in value.items() for part in item], classes, arrays)}
    if kind in (list, tuple, set):
        items = list(value)
        if not all(type(item) in _PLAIN for item in items):
            items = [_encoded(item, classes, arrays) for item in items]
        return items if kind is list else {kind.__name__: items}
    if isinstance(value, Path):
        return {"Path": str(value)}
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, np.generic):
        return value.item()
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain(value)
    raise UnstorableError(f"{kind.__qualname__} cannot be stored: it is not among the classes that were named")


def _decoded(tree: Any, classes: dict[str, type], arrays: list[Any]) -> Any:
    if isinstance(tree, list):
        return (
            tree if all(type(item) in _PLAIN for item in tree) else [_decoded(part, classes, arrays) for part in tree]
        )
    if not isinstance(tree, dict):
        return tree
    ((name, content),) = tree.items()
    if name == "array":
        return arrays[content]
    if name == "Path":
        return Path(content)
    parts = _decoded(content, classes, arrays)
    if name in classes:
        return _restored(classes[name], parts)
    if name in ("dict", "Counter"):
        pairs = dict(zip(parts[::2], parts[1::2], strict=True))
        return pairs if name == "dict" else Counter(pairs)
    if name in ("tuple", "set"):
        return tuple(parts) if name == "tuple" else set(parts)
    raise ValueError(f"{name} is not expected here")


def _contents(value: Any) -> list[Any]:
    """The fields of an object, in their order; of a class without declared fields, one dictionary."""
    names = _field_names(type(value))
    return [vars(value)] if names is None else [getattr(value, name) for name in names]


def _restored(kind: type, contents: list[Any]) -> Any:
    """An object with these fields, whose constructor is not run."""
    names = _field_names(kind)
    if names is None:
        (attributes,) = contents
        names, contents = [*attributes], [*attributes.values()]
    elif len(names) != len(contents):
        raise ValueError(f"{kind.__name__} has {len(names)} fields, not {len(contents)}")
    if issubclass(kind, tuple):
        return tuple.__new__(kind, contents)
    restored = object.__new__(kind)
    for name, content in zip(names, contents, strict=True):
        object.__setattr__(restored, name, content)
    return restored


def _field_names(kind: type) -> list[str] | None:
    if issubclass(kind, tuple):
        return [*getattr(kind, "_fields")]  # noqa: B009  a named tuple, which has no type of its own
    return [each.name for each in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None


class Shown:
    """Stands for a value of a data file that JSON does not have, such as an image: what is left of it is its repr."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shown) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


_MARK = "\0"
"""The key of a mapping that stands for a value that JSON does not have: no data file has a column of this name."""
_VALUES: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "timedelta": (
        timedelta,
        lambda value: f"{value.days} {value.seconds} {value.microseconds}",
        lambda text: timedelta(*map(int, text.split())),
    ),
    "Decimal": (Decimal, str, Decimal),
    "bytes": (bytes, lambda value: value.decode("latin-1"), lambda text: text.encode("latin-1")),
}
"""Values of Parquet and Arrow files that JSON does not have: their class, as text, and from text."""


def row_line(value: Any) -> bytes:
    """A line of JSON for rows of data files; a tuple comes back as a list, and a value of an unknown class as Shown."""
    has_others = False

    def marked(other: Any) -> Any:
        nonlocal has_others
        has_others = True
        for name, (kind, as_text, _) in _VALUES.items():
            # A time zone has a name that its ISO format lacks.
            if type(other) is kind and getattr(other, "tzinfo", None) is None:
                return {_MARK: [name, as_text(other)]}
        return {_MARK: ["", repr(other)]}

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=marked)
    return f"{int(has_others)}{text}\n".encode("utf-8", errors="surrogatepass")


def row_of_line(line: bytes) -> Any:
    """The value of a line of `row_line`. Raises ValueError if it is none."""
    text = line.decode("utf-8", errors="surrogatepass")
    return json.loads(text[1:], object_hook=_unmarked if text[:1] == "1" else None)


def _unmarked(mapping: dict[str, Any]) -> Any:
    if mapping.keys() != {_MARK}:
        return mapping
    name, text = mapping[_MARK]
    return _VALUES[name][2](text) if name in _VALUES else Shown(text)


def _as_line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
