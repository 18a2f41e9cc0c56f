"""Encodings of text files besides UTF-8: which one a file declares, or seems to have."""

import codecs
import re
from typing import BinaryIO

_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
LIKELY = ("gb18030", "big5", "shift_jis", "euc_kr", "cp1251", "cp1252")
"""Those that are guessed, the strictest first: everything is legal in the last two."""


def checked_encoding(name: str) -> str:
    """The name, if Python can decode text by it. Raises ValueError."""
    try:
        if codecs.lookup(name)._is_text_encoding:  # such as hex and zip are not
            return name
    except (LookupError, ValueError):
        pass
    raise ValueError(f"unknown encoding {name!r}; examples: utf-8, {', '.join(LIKELY)}, utf-16")


def declared_encoding(stream: BinaryIO) -> str | None:
    """The encoding that a byte order mark at the beginning of a buffered stream declares, if it is not UTF-8."""
    peek = getattr(stream, "peek", None)
    start: bytes = peek(4)[:4] if peek is not None else b""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), None)


def unmarked_wide_encoding(line: bytes) -> str | None:
    """The UTF-16 encoding of a file with this first line, by the zeros between ASCII characters; None otherwise."""
    start = line[:1000]
    for first, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        zeros, others = start[first::2], start[1 - first :: 2]
        if len(zeros) > 3 and zeros.count(0) > len(zeros) / 3 and others.count(0) <= 1:
            return encoding
    return None


def guessed_encoding(sample: bytes) -> str | None:
    """The likely encoding of text that is not UTF-8; None if no guess is better than another."""
    import charset_normalizer

    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", sample)]
    if runs.count(1) > len(runs) / 2:  # single letters with accents among others: too little for a statistic
        return "cp1252"
    best = charset_normalizer.from_bytes(sample, cp_isolation=list(LIKELY)).best()
    return best.encoding if best is not None else None


def remedy(encoding: str) -> str:
    """What to do about a file in this encoding."""
    return f"set its encoding, as in data.train={{path: …, encoding: {encoding}}}"
