"""What a recipe may say of where the rows of a split are."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, PositiveFloat, Tag

from shardtune.section import Section


class SourceConfig(Section):
    """One of the sources of a split: what a plain path stands for, and what is particular about its rows."""

    path: str
    """A file, a folder, a glob or `hf:owner/name`, as data.train says."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """What it is called where its rows are counted. None takes the path."""
    weight: PositiveFloat = 1.0
    """How often an epoch holds each of its rows, and so how many steps it has: 2 is twice, 0.5 is one half of them in
    this epoch and the other half in the next. Over the epochs no row comes more than once more often than another, and
    up to any step each source has had its part of all rows, to one. Only of training rows."""
    columns: dict[str, str] | None = None
    """The source's names for our columns. None takes data.columns."""
    subset: str | None = None
    """The subset (configuration) of a hub data set."""
    split: str | None = None
    """The split of a hub or saved data set, on the hub also a part of one such as `train[:10%]`. None takes the one
    that is called like ours (for dev: validation)."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set. None takes the hub's default branch."""


class HeldOutConfig(Section):
    """A share of the training rows, which are then not trained on. Other rows that come in later do not move them."""

    fraction: Annotated[float, Field(gt=0, lt=1)]
    """Each row, or each group of rows, is taken with this probability, which a hash of it decides."""
    group: str | None = None
    """A column of which all rows of one value stay together, such as `conversation_id`. None keeps together the rows of
    which the model reads the same."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Another number, another share. train.seed does not change it."""


def _kind_of_source(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "list"
    return "source" if isinstance(value, Mapping | SourceConfig) else "path"


def _kind_of_one_source(value: Any) -> str:
    return "source" if isinstance(value, Mapping | SourceConfig) else "path"


def _kind_of_split(value: Any) -> str:
    if isinstance(value, HeldOutConfig) or (isinstance(value, Mapping) and "fraction" in value):
        return "share"
    return _kind_of_source(value)


_Path = Annotated[str, Tag("path")]
_Source = Annotated[SourceConfig, Tag("source")]
_List = Annotated[tuple[Annotated[_Path | _Source, Discriminator(_kind_of_one_source)], ...], Tag("list")]
_Share = Annotated[HeldOutConfig, Tag("share")]

Sources = Annotated[_Path | _Source | _List, Discriminator(_kind_of_source)]
"""A path, one source, or a list of either."""
SourcesOrShare = Annotated[_Path | _Source | _List | _Share, Discriminator(_kind_of_split)]
"""The same, or a share of the training rows."""


def listed(value: str | SourceConfig | tuple[str | SourceConfig, ...] | HeldOutConfig | None) -> list[SourceConfig]:
    """The sources that the value names, paths as sources too; none of a share."""
    if value is None or isinstance(value, HeldOutConfig):
        return []
    items = value if isinstance(value, tuple) else (value,)
    return [SourceConfig(path=item) if isinstance(item, str) else item for item in items]
