"""The recipe's sections for where the rows of a split come from."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, PositiveFloat, Tag, model_validator

from shardtune.rows.encodings import checked_encoding
from shardtune.rows.formats import checked_format
from shardtune.section import Section

Column = Annotated[
    Annotated[str, Tag("name")] | Annotated[tuple[str, ...], Field(min_length=1), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "name"),
]
"""A column of the data, or several that become one of ours. The discriminator makes a wrong value one fault."""


class SourceConfig(Section):
    """One source of a split: a path, with options for its rows."""

    path: str
    """A file, a folder, a glob or `hf:owner/name`, as in data.train."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """The name of the source in row counts. None uses the path."""
    weight: PositiveFloat = 1.0
    """How often each row of the source occurs in an epoch, which also changes the number of steps: 2 means twice, 0.5
    means one half of the rows in this epoch and the other half in the next. Over all epochs no row occurs more than
    once more often than another, and at every step each source has had its share of the rows, to within one row. For
    training rows only."""
    columns: dict[str, Column] | None = None
    """Like data.columns, for this source only. None uses data.columns."""
    format: Annotated[str, AfterValidator(checked_format)] | None = None
    """The format of the files (jsonl, csv, conll, …), whatever their names end in. None decides by the ending, or else
    by the content."""
    encoding: Annotated[str, AfterValidator(checked_encoding)] | None = None
    """The encoding of text files, such as cp1252, gb18030, big5 or utf-16. None is UTF-8, or what a byte order mark
    says."""
    header: bool = True
    """Whether the first record of a .csv or .tsv file names the columns. If false, they are column_1, column_2 and so
    on."""
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """The character between the cells of a .csv or .tsv file. None finds out which of `,`, `;`, `|` and tab it is."""
    subset: str | None = None
    """The subset (configuration) of a data set on the hub."""
    split: str | None = None
    """The split of a hub or saved data set; on the hub also a slice such as `train[:10%]`. None uses the split of the
    same name (for dev: validation)."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the hub. None uses the hub's default branch."""


class HeldOutConfig(Section):
    """A held-out share of the training rows, which are then not trained on. Adding rows later does not change which of
    the existing rows are held out."""

    fraction: Annotated[float, Field(gt=0, lt=1)]
    """The probability with which each row, or each group of rows, is held out; decided by a hash of the row or
    group."""
    group: str | None = None
    """A column, such as `conversation_id`; rows with the same value stay in the same split. None keeps rows with
    identical model input together."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """A different seed selects a different share. Independent of train.seed."""
    fold: Annotated[int, Field(ge=0)] | None = None
    """For cross-validation, and for test only: which of the equal parts of the training rows is held out, counted from
    0. `{fraction: 0.2, fold: 0}` to `{fraction: 0.2, fold: 4}` are five parts that have no row in common; rows that are
    held out for dev are in none of them."""

    @property
    def num_folds(self) -> int:
        """How many equal parts there are, one of which is a fold."""
        return round(1 / self.fraction)

    @model_validator(mode="after")
    def _a_fold_is_one_of_several(self) -> "HeldOutConfig":
        if self.fold is None:
            return self
        if abs(self.num_folds * self.fraction - 1) > 0.001:
            raise ValueError(f"fraction: folds are equal parts, such as 0.5, 0.2 or 0.1; {self.fraction:g} is none")
        if self.fold >= self.num_folds:
            raise ValueError(f"fold: there are {self.num_folds} folds, 0 to {self.num_folds - 1}; got {self.fold}")
        return self


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
"""A path, one source, or a list of these."""
SourcesOrShare = Annotated[_Path | _Source | _List | _Share, Discriminator(_kind_of_split)]
"""The same, or a share of the training rows."""


def listed(value: str | SourceConfig | tuple[str | SourceConfig, ...] | HeldOutConfig | None) -> list[SourceConfig]:
    """The sources of a value, paths as sources too; empty for None and for a share."""
    if value is None or isinstance(value, HeldOutConfig):
        return []
    items = value if isinstance(value, tuple) else (value,)
    return [SourceConfig(path=item) if isinstance(item, str) else item for item in items]
