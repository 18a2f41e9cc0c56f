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


def guess(found: Collection[str], synonyms: Mapping[str, tuple[str, ...]], columns: Mapping[str, str]) -> dict[str, str]:
    """Ours -> theirs, for each of our columns that is missing while just one column has a name that means it.

    `synonyms` has the names that mean ours, in lower case. Spelling with capitals, spaces or hyphens is no other name.
    """
    free = [name for name in found if name not in synonyms and name not in columns.values()]
    guesses = {}
    for ours, theirs in synonyms.items():
        if ours not in found and ours not in columns:
            meant = [name for name in free if _plain(name) in (ours, *theirs)]
            if len(meant) == 1:
                guesses[ours] = meant[0]
    claims = Counter(guesses.values())
    return {ours: theirs for ours, theirs in guesses.items() if claims[theirs] == 1}


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")
