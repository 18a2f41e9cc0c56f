"""YAML as recipes use it: plain data by the core schema of YAML 1.2, with the line number of every value.

Tags, anchors and merge keys are refused: with them, a value is not defined where it is used.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]
"""The path to a value from the top: keys and list positions."""


class YamlError(Exception):
    """The text cannot be parsed any further."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document."""

    value: Any
    lines: Mapping[KeyPath, int]
    """The line of each key and list item, counted from 1."""
    duplicates: Mapping[KeyPath, tuple[int, int]]
    """Keys that are given twice: the lines of the first and the last occurrence. `value` holds the last."""
    has_comment_after: bool
    """Whether a comment follows the last value."""


def read_yaml(text: str) -> Document:
    """Return the only document in the text. Raises YamlError if there is none or more than one."""
    reader: _Reader | None = None
    try:
        reader = _Reader(text)
        value = reader.document()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"the character U+{ord(text[error.position]):04X} is not allowed in YAML", line) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error) from None
    except (ValueError, OverflowError):
        # PyYAML hands an escape such as "\UFFFFFFFF" to chr() unchecked.
        raise YamlError("not YAML: an escape that is not a character", reader.line if reader else 1) from None
    return Document(value, reader.lines, reader.duplicates, has_comment_after=reader.end < len(text.rstrip()))


def write_yaml(value: Any) -> str:
    """Block-style YAML that read_yaml, and YAML 1.1 readers too, read back to the same value."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


_NO_ALIASES = "anchors (&) and aliases (*) are not supported; put text that starts with & or * in quotes"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_MAX_DIGITS = 100
"""Longer numbers stay text: int() refuses more than 4300 digits, and nobody means them."""
_MAX_DEPTH = 16


def _scalar(text: str) -> Any:
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if len(text) <= _MAX_DIGITS:
        if _INT.fullmatch(text):
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        # .inf and .nan stay text, and so does what overflows: no key of a recipe can hold them.
        if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
            return number
    return text


class _Reader:
    # The pure Python parser, although libyaml's is faster: a recipe takes 10 ms, nesting does not recurse and so cannot
    # overflow, and messages do not depend on how PyYAML was built.
    def __init__(self, text: str) -> None:
        self._parser = yaml.SafeLoader(text)
        self.lines: dict[KeyPath, int] = {}
        self.duplicates: dict[KeyPath, tuple[int, int]] = {}
        self.end = 0

    @property
    def line(self) -> int:
        return int(self._parser.line) + 1

    def document(self) -> Any:
        self._next()
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        value = self._node(self._next(), ())
        self._next()
        if not isinstance(after := self._next(), yaml.StreamEndEvent):
            raise _refused("a second YAML document; a recipe is a single one", after)
        return value

    def _next(self) -> Any:
        event: Any = self._parser.get_event()  # type: ignore[no-untyped-call]
        if event.start_mark.index < event.end_mark.index:  # the end of a block has no width
            self.end = event.end_mark.index
        return event

    def _node(self, event: Any, key_path: KeyPath) -> Any:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refused(_NO_ALIASES, event)
        if event.tag not in (None, "!"):
            raise _refused("tags (!) are not supported; put text that starts with ! in quotes", event)
        if len(key_path) > _MAX_DEPTH:
            raise _refused(f"nested more than {_MAX_DEPTH} deep", event)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(key_path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(key_path)
        text = _whole_characters(event)
        return _scalar(text) if event.implicit[0] and event.tag is None else text

    def _mapping(self, key_path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _refused("a key must be one word; put text that starts with { [ * in quotes", event)
            key, line = _whole_characters(event), _line(event)
            here = (*key_path, key)
            if key in mapping:
                first, _ = self.duplicates.get(here, (self.lines[here], line))
                self.duplicates[here] = (first, line)
            self.lines[here] = line
            mapping[key] = self._node(self._next(), here)
        return mapping

    def _sequence(self, key_path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            here = (*key_path, len(items))
            self.lines[here] = _line(event)
            items.append(self._node(event, here))
        return items


def _refused(what: str, event: Any) -> YamlError:
    return YamlError(what, _line(event))


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _whole_characters(event: Any) -> str:
    text = str(event.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _refused("an escape for half a character; write the character itself", event)
    return text


_PROBLEMS = {
    "found character '\\t' that cannot start any token": "a tab; YAML is indented with spaces",
    "mapping values are not allowed here": "a ':' that is not allowed here; is the line above complete, the "
    "indentation right, and text that contains ': ' in quotes?",
    "found unexpected end of stream": "a quote that is never closed",
}


def _syntax_error(error: yaml.MarkedYAMLError) -> YamlError:
    problem = error.problem or "not YAML"
    never_closed = problem == "found unexpected end of stream" or "stream end" in problem
    mark = (error.context_mark if never_closed else None) or error.problem_mark or error.context_mark
    if problem.startswith("expected alphabetic or numeric character"):  # after an & or a *
        words = _NO_ALIASES
    elif problem.startswith("found character") and "\\t" not in problem:
        words = (
            f"{problem.removesuffix(' that cannot start any token')} at the start of a value; put the value in quotes"
        )
    else:
        words = problem.replace("<", "").replace(">", "")
    return YamlError(f"not YAML: {_PROBLEMS.get(problem, words)}", mark.line + 1 if mark else 1)


class _Dumper(yaml.SafeDumper):
    """Quotes text wherever YAML 1.1 or 1.2 would read something else."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes U+0085 as it is, and reads it back as a line break; in double quotes such characters are escaped.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^(?:{_INT.pattern})$"), list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+.0123456789"))
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]
