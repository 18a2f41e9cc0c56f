"""Which of the data's columns are ours: those that the recipe names, and those that can hardly be anything else."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any


def rename(values: dict[str, Any], columns: Mapping[str, str]) -> None:
    """Gives the columns our names, in place: `columns` maps ours to theirs. What had our name before gives way."""
    present = {ours: values[theirs] for ours, theirs in columns.items() if theirs in values}
    for ours in present:
        values.pop(columns[ours], None)
    values.update(present)


Synonyms = Mapping[str, tuple[str, ...]]
"""Our columns, and the names in lower case that others give them."""


def guess(found: Collection[str], synonyms: Synonyms, columns: Mapping[str, str]) -> dict[str, str]:
    """Ours -> theirs, for each of our columns that is missing while just one column has a name that means it.

    Spelling with capitals, spaces or hyphens is no other name.
    """
    free = [name for name in found if name not in synonyms and name not in columns.values()]
    guesses = {}
    for ours, theirs in synonyms.items():
        if ours not in found and ours not in columns:
            meant = [name for name in free if plain(name) in (ours, *theirs)]
            if len(meant) == 1:
                guesses[ours] = meant[0]
    claims = Counter(guesses.values())
    return {ours: theirs for ours, theirs in guesses.items() if claims[theirs] == 1}


def plain(name: str) -> str:
    """As Synonyms spell a name."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")
