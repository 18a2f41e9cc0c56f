"""How tags are written in rows, and what each means: all are read into the form PREFIX-TYPE, or O.

What was not in this form is counted, so that it can be reported.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from shardtune.recipe.tasks.token_classification import TokenClassificationOptions
from shardtune.trainer.tasks.token_classification.spans import OUTSIDE, split_tag

NO_TYPE = "ENTITY"
"""The type of entities whose tags name none, unless task.types does."""

Readings = Counter[tuple[str, str]]
"""How often something was read that is not in the usual form: a note on it, with {count} or {rows} in the place of the
number, and an example."""
BARE = "tags without a type: {count}, read with one (task.types names it)"
_NUMBERS = "tags: {count} numbers read by task.tag_names"
_OTHER_FORM = "tags: {count} of another form read as PREFIX-TYPE"

_LETTERS = frozenset("BIESLUM")
_PREFIX_FIRST = re.compile(r"([BIESLUMbieslum])[-_](.+)", re.DOTALL)
_PREFIX_LAST = re.compile(r"(.+)[-_]([BIESLUM])", re.DOTALL)


class TagNotation(NamedTuple):
    """What the options say of how tags are written."""

    bare_type: str | None = NO_TYPE
    """The type of tags such as B alone; None if such tags are not legal."""
    names: tuple[str, ...] = ()
    """The tags by their numbers."""
    are_types: bool = False
    """A tag is the name of a type, or O."""

    def read(self, tag: str | int, readings: Readings) -> str:
        """The tag as PREFIX-TYPE or O, or as it is if it has no meaning; adds what was not in this form.

        Raises ValueError with what is wrong with a number, or with a name that was to be a type.
        """
        if isinstance(tag, int) or (tag.isdecimal() and not self.are_types):
            tag = self._named(int(tag), readings)
        parts = split_tag(tag)
        if self.are_types and tag != OUTSIDE:
            if parts is not None:
                raise ValueError(f"{tag!r} has the prefix of another scheme; set task.scheme=auto")
            return f"I-{tag}"
        if parts is not None:
            return tag
        found = self._other_form(tag)
        if found is None:
            return tag
        note, read_as = found
        readings[note, f"{tag!r} as {read_as!r}"] += 1
        return read_as

    def _named(self, number: int, readings: Readings) -> str:
        if not self.names:
            raise ValueError(
                f"{number} is a number; name them all, from 0 on, in task.tag_names=[O, B-…, I-…, …], or write names"
            )
        if not 0 <= number < len(self.names):
            raise ValueError(f"{number} is not a number of task.tag_names, which go from 0 to {len(self.names) - 1}")
        readings[_NUMBERS, f"{number} as {self.names[number]!r}"] += 1
        return self.names[number]

    def _other_form(self, tag: str) -> tuple[str, str] | None:
        """The note on it, and the tag in our form; None if it has no meaning."""
        if tag == "o":
            return _OTHER_FORM, OUTSIDE
        if is_bare(tag):
            return (BARE, f"{tag[0]}-{self.bare_type}") if self.bare_type else None
        if match := _PREFIX_FIRST.fullmatch(tag):
            return _OTHER_FORM, f"{match[1].upper()}-{match[2]}"
        if match := _PREFIX_LAST.fullmatch(tag):
            return _OTHER_FORM, f"{match[2]}-{match[1]}"
        return None


def notation_of(options: TokenClassificationOptions) -> TagNotation:
    """What these options say of how tags are written."""
    bare_type: str | None = NO_TYPE
    if options.types:
        bare_type = options.types[0] if len(options.types) == 1 else None
    return TagNotation(bare_type, options.tag_names or (), are_types=options.scheme == "io")


def is_bare(tag: str) -> bool:
    """Whether it is the prefix of a tag without a type: B, B- or B_."""
    return tag[:1] in _LETTERS and tag[1:] in ("", "-", "_")


def notes_on(readings: Readings) -> list[str]:
    """A line for each note, with the number of times and the most frequent examples."""
    by_note: dict[str, Counter[str]] = {}
    for (note, example), count in readings.items():
        by_note.setdefault(note, Counter())[example] += count
    notes = []
    for note, examples in by_note.items():
        total = examples.total()
        listed = ", ".join(example for example, _ in examples.most_common(3) if example)
        text = note.replace("{count}", f"{total:,}").replace("{rows}", f"{total:,} row{'s' * (total != 1)}")
        notes.append(f"{text}: {listed}" if listed else text)
    return notes
