"""What a tracker has to do, and what it is told about a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from shardtune.recipe.schema import Recipe
from shardtune.redaction import redactor
from shardtune.run_dir.files import absolute
from shardtune.run_dir.view.tracked import Record

End = Literal["finished", "stopped", "running"]
"""How a run stands after its last record."""
Setting = bool | int | float | str


@dataclass(frozen=True)
class RunFacts:
    """A run, as its trackers know it."""

    run_dir: Path
    project: str
    name: str
    group: str | None
    config: Mapping[str, Setting]
    """The resolved recipe, by dotted key; keys that are not set are left out."""


@dataclass(frozen=True)
class Target:
    """Where to, if not to the tracker's usual place."""

    out: Path | None = None
    """A folder."""
    uri: str | None = None
    """The address of a server."""


class Tracker(Protocol):
    """One run in one place of a tracker. The library is imported when the tracker is made."""

    flags: ClassVar[frozenset[str]]
    """The flags of `shardtune replay` that mean something to it, of project, name, out and uri."""
    continues: ClassVar[bool]
    """Whether more can be added to a run of an earlier process."""
    ignores_repeats: bool
    """Whether a record that is sent twice is there once."""
    place: str
    """Where the runs are, in words for the user; the same for every replay into the same place."""

    def __init__(self, facts: RunFacts, target: Target) -> None: ...

    def has(self, run: str) -> bool:
        """Whether the run is still there."""
        ...

    def delete(self, run: str) -> None:
        """Removes the run, as far as the tracker can."""
        ...

    def open(self, run: str | None, began: float) -> str:
        """Opens the run, or a new one that began at this time; returns the tracker's id of it."""
        ...

    def send(self, records: Sequence[Record]) -> None:
        """Adds records to the open run, and returns when they are stored."""
        ...

    def close(self, end: End, ended: float) -> None:
        """Closes the open run; `ended` is the time of its last event."""
        ...


def facts_of(recipe: Recipe, run_dir: Path, *, project: str | None = None, name: str | None = None) -> RunFacts:
    """The facts of a run, under the names of its recipe unless others are given."""
    return RunFacts(
        absolute(run_dir),
        project or recipe.report.project or "shardtune",
        name or recipe.report.name or absolute(run_dir).name,
        recipe.report.group,
        dict(_settings(redactor().value(recipe.model_dump(mode="json")))),
    )


def _settings(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Setting]]:
    settings: list[tuple[str, Setting]] = []
    for key, value in section.items():
        if isinstance(value, Mapping):
            settings += _settings(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            settings.append((f"{prefix}{key}", ", ".join(map(str, value))))
        elif value is not None:
            settings.append((f"{prefix}{key}", value))
    return settings
