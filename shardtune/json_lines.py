"""JSON lines: one JSON value per line, each ended by "\\n" and by nothing else (https://jsonlines.org).

Texts may contain other characters that Python and some tools take for the end of a line, such as U+2028 or U+0085.
They are escaped when written, so that every reader finds the same lines, and are no ends when read.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_OTHER_ENDS = str.maketrans({character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"})
"""The rest of those that str.splitlines knows are control characters, which JSON escapes itself."""


def json_line(value: Any) -> str:
    """The value as one line of JSON, with its end. Values that JSON has no form for are written as their str()."""
    return json.dumps(value, ensure_ascii=False, default=str).translate(_OTHER_ENDS) + "\n"


def complete_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file without their ends; an incomplete last line, as a killed writer leaves it, is skipped.

    Raises OSError and UnicodeDecodeError.
    """
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1].decode()


def json_objects(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The objects in these lines; other lines, such as the NULs that a crashed file system leaves, are skipped.

    They are parsed together, because objects of one call share the strings of their keys.
    """
    try:
        values = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        values = []
    if len(values) != len(lines):  # a line may have several values with commas between them
        values = [_parsed(line) for line in lines]
    return [value for value in values if isinstance(value, dict)]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
