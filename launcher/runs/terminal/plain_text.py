"""Texts of a run as a terminal can show them: without control characters, in the width of their cells, as ASCII where
the locale has nothing else, and without colours where these are unwanted."""

import re
import unicodedata
from functools import lru_cache

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])|\x9b[0-?]*[ -/]*[@-~]")
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of characters that move the cursor, turn the direction of the text, or have no defined width."""
_ASCII = str.maketrans(
    {
        "▸": ">", "●": "*", "█": "#", "━": "=", "╸": "-", "░": ".", "─": "-", "│": "|", "…": "~", "·": "-", "—": "-",
        "→": ">", "×": "x", **dict.fromkeys("└┘┌┐┼┤├┬┴", "+"), "▁": "_", "▔": "-", "▎": "|", "▊": "|",
    }
)  # fmt: skip


def shown_text(text: str) -> str:
    """The text on one line, without escape sequences; other characters that a terminal may not show as they are become
    a space. Of a line that was written over itself (a progress bar) the last version."""
    text = _ESCAPES.sub("", text).rstrip("\r\n").rpartition("\r")[2].expandtabs(4)
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if unicodedata.category(letter) in _INVISIBLE else letter for letter in text)


def fitted(text: str, width: int, *, at_right: bool = False) -> str:
    """The text in exactly that many cells: padded, or cut with an ellipsis."""
    if (length := cell_len(text)) > width:
        text = set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)
        length = width
    return " " * (width - length) + text if at_right else set_cell_size(text, width)


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most that many cells, broken at spaces where there are any; at least one line."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= width:
            lines[-1] = joined
            continue
        parts = chop_cells(word, max(2, width)) or [""]
        lines += parts if lines[-1] else []
        if not lines[-1]:
            lines[-1:] = parts
    return lines


class AsciiFilter(LineFilter):
    """Shows ASCII only; every other character becomes one that is like it, or as many `?` as it has cells."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [Segment(as_ascii(text), style, control) for text, style, control in segments]


@lru_cache(4096)
def as_ascii(text: str) -> str:
    """The text in ASCII, in the same number of cells."""
    if text.isascii():
        return text
    return "".join(c if c.isascii() else "?" * cell_len(c) for c in text.translate(_ASCII))
