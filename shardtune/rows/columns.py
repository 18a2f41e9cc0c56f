"""Which of the data's columns are ours: those that the recipe names, and those that are unambiguous by their names."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

ColumnNames = Mapping[str, str | Sequence[str]]
"""Our columns -> the data's; several of the data's become one of ours, a mapping of their names to their values."""


def names_of(column: str | Sequence[str]) -> Sequence[str]:
    """The data's columns that one of ours stands for."""
    return [column] if isinstance(column, str) else column


def rename(values: dict[str, Any], columns: ColumnNames) -> None:
    """Rename columns in place: `columns` maps our names to the data's. A column that had our name before is
    replaced."""
    present: dict[str, Any] = {}
    for ours, in_data in columns.items():
        if isinstance(in_data, str):
            if in_data in values:
                present[ours] = values[in_data]
        elif several := {name: values[name] for name in in_data if name in values}:
            present[ours] = several
    for ours in present:
        for name in names_of(columns[ours]):
            values.pop(name, None)
    values.update(present)


Synonyms = Mapping[str, tuple[str, ...]]
"""Our columns -> common other names for them, in lower case."""


def guess(file_columns: Collection[str], synonyms: Synonyms, columns: ColumnNames) -> dict[str, str]:
    """Ours -> the data's, for each missing column for which exactly one other column has a known name.

    Capitals, spaces and hyphens make no difference.
    """
    taken = {name for column in columns.values() for name in names_of(column)}
    free = [name for name in file_columns if name not in synonyms and name not in taken]
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
