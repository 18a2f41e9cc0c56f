"""Which of the data's columns are ours: those that the recipe names, and those that are unambiguous by their names."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any


def rename(values: dict[str, Any], columns: Mapping[str, str]) -> None:
    """Rename columns in place: `columns` maps our names to the data's. A column that had our name before is
    replaced."""
    present = {ours: values[in_data] for ours, in_data in columns.items() if in_data in values}
    for ours in present:
        values.pop(columns[ours], None)
    values.update(present)


Synonyms = Mapping[str, tuple[str, ...]]
"""Our columns -> common other names for them, in lower case."""


def guess(file_columns: Collection[str], synonyms: Synonyms, columns: Mapping[str, str]) -> dict[str, str]:
    """Ours -> the data's, for each missing column for which exactly one other column has a known name.

    Capitals, spaces and hyphens make no difference.
    """
    free = [name for name in file_columns if name not in synonyms and name not in columns.values()]
    guesses = {}
    for ours, others in synonyms.items():
        if ours not in file_columns and ours not in columns:
            candidates = [name for name in free if plain(name) in (ours, *others)]
            if len(candidates) == 1:
                guesses[ours] = candidates[0]
    claims = Counter(guesses.values())
    return {ours: in_data for ours, in_data in guesses.items() if claims[in_data] == 1}


def plain(name: str) -> str:
    """The name as spelled in Synonyms."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")
