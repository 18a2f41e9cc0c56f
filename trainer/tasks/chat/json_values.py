"""JSON values in rows of conversations: whether a template can write them, and what Arrow has added to them."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any

DEEPEST = 40
"""The deepest nesting of tools and arguments; a recursive template filter overflows only far beyond it."""


def without_nulls(value: Any, depth: int = 0) -> Any:
    """The value without the members of objects that are null, down to the level that `is_json` allows.

    A Parquet file has one schema for all rows: each object in it comes with the members of every other one, as nulls.
    """
    if depth > DEEPEST:
        return value
    if isinstance(value, Mapping):
        return {key: without_nulls(item, depth + 1) for key, item in value.items() if item is not None}
    return [without_nulls(item, depth + 1) for item in value] if isinstance(value, list) else value


def is_writable(text: str) -> bool:
    """Whether UTF-8 can encode it: JSON allows unpaired surrogates, which no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_json(value: Any) -> bool:
    """Whether all its texts can be encoded, its numbers are finite, and it is nested at most DEEPEST levels."""
    level = [value]
    for _ in range(DEEPEST):
        texts = [item for item in level if isinstance(item, str)]
        texts += [key for item in level if isinstance(item, Mapping) for key in item]
        if not all(map(is_writable, texts)):
            return False
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            return False
        inner = (list(item.values()) if isinstance(item, Mapping) else item for item in level)
        level = [child for item in inner if isinstance(item, list) for child in item]
        if not level:
            return True
    return False


def from_json(text: str) -> Any:
    """The value of a JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_repr: Any = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def short(value: Any) -> str:
    """The beginning of the value, enough to find it."""
    return f"{_repr.repr(value):.80}"
