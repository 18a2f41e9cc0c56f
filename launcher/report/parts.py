"""What a section of a page is made of; the templates say how each part looks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Table:
    """A table under a heading of its own."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    has_row_heads: bool = False
    """Whether the first cell of each row is its heading."""
    holds_texts: bool = False
    """Whether the cells hold texts of several lines, not numbers."""
    shades: Sequence[Sequence[float]] = ()
    """How dark each cell after the row's heading is, from 0 to 1; empty for a table without shades."""
    note: str = ""
    """A line under it."""
    colours: Sequence[str] = ()
    """The colour of the mark before the first cell of each row; empty for none."""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """Drawings: <svg> elements, which are not escaped."""

    drawings: Sequence[str]
    is_wide: bool = False
    """Whether each takes the whole width."""
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Text:
    """Paragraphs."""

    paragraphs: Sequence[str]
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Listing:
    """A list; each entry has a mark for what it is, such as `alert`."""

    entries: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "listing"


@dataclass(frozen=True)
class Code:
    """Text in lines, as it is in a file."""

    lines: Sequence[tuple[str, bool]]
    """(line, whether it is marked)."""
    title: str = ""
    """Of a part that is folded until it is opened; empty for one that is shown."""
    kind: ClassVar[str] = "code"


Part = Table | Figure | Text | Listing | Code


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading that its contents lead to."""

    key: str
    title: str
    parts: Sequence[Part] = field(default=())
