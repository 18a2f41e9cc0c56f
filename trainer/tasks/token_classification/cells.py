"""Lists and spans that a row has within a text, as tables do: in the notation of JSON, of Python or of numpy."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ITEM = re.compile(rf"({_QUOTED}|[^\s,'\"\[\]]+)\s*,?\s*", re.DOTALL)


def parse_list(text: str, *, has_bare_items: bool = False) -> list[Any] | None:
    """The texts and numbers in a list, separated by commas or, as numpy writes them, by blanks; None if it is none.

    With `has_bare_items`, texts need no quotes.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        found = json.loads(text)
        return found if isinstance(found, list) else None
    except (ValueError, RecursionError):
        pass
    # Not by Python's parser, for which 'O' 'B-PER' is one text.
    text = text[1:-1].strip()
    items: list[Any] = []
    at = 0
    while at < len(text):
        match = _ITEM.match(text, at)
        item = _item(match[1]) if match else None
        if match is None or (item is None and not has_bare_items):
            return None
        items.append(match[1] if item is None else item)
        at = match.end()
    return items


def parse_value(text: str) -> Any:
    """What a text is in the notation of JSON or of Python; None if it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _literal(text)


def _item(text: str) -> str | int | None:
    """A text in quotes, or a number; None if it is neither."""
    if text[0] in "'\"":
        return str(_literal(text) or text[1:-1]) if "\\" in text else text[1:-1]
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _literal(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape that Python does not know is only a warning
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
