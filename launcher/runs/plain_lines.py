"""A stream for the progress of a run as plain lines, also on a terminal, each with the name of its run."""

import io
from typing import TextIO


class PlainLines(io.StringIO):
    """Writes whole lines to another stream, with a name before each."""

    def __init__(self, stream: TextIO, name: str = "") -> None:
        self._stream = stream
        self._prefix = f"{name}: " if name else ""
        self._line = ""

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
