"""From a recipe to the rows of its splits: read, held out, freed of bad and of double ones, and surveyed.

Whatever is chosen or dropped on the way is said, and stands in the report.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import Any, Literal

from trainer.config.errors import DataError
from trainer.config.schema import DataConfig, Recipe
from trainer.config.sources import SourceConfig
from trainer.data.duplicates import Duplicates
from trainer.data.faults import BadRows, Faults
from trainer.data.file import format_of
from trainer.data.find import FindError, file_digest, find_files, is_dataset
from trainer.data.hub import dataset_digest
from trainer.data.shares import held_out
from trainer.data.source import Row, read_source
from trainer.tasks import TASKS, Task

SPLITS = ("train", "dev", "test")
REPORTED = ("sources", "bad_rows", "duplicates", "conflicts", "leaks", "deduplicated")
"""What a report has besides the notes."""
Say = Callable[[str], None]
Splits = dict[str, list[Row]]


@dataclass(frozen=True)
class Gathered:
    """The rows that a recipe means, and what was found out about them."""

    rows: dict[str, list[Row]]
    """By split; none is empty."""
    facts: dict[str, Any]
    """What the task has to know of them (Task.survey)."""
    report: dict[str, Any]
    """`notes`, all that was said, and the numbers of it. JSON values."""


def gather(recipe: Recipe, say: Say) -> Gathered:
    """All rows of the recipe. Raises DataError with whatever is wrong with them, or if a split has none left."""
    data, task = recipe.data, TASKS[recipe.task.kind]
    notes, dropped = _Notes(say), _Dropped(data.on_bad_row)
    rows, sources = _read(recipe, notes, dropped)
    rows = _hold_out(rows, data, task, notes, dropped)
    facts, rows = _survey(recipe, rows, dropped)
    doubles = Duplicates(rows, task.input_columns, [*task.columns, *task.column_guesses])
    masks = doubles.dropped(data.deduplicate)
    _say_doubles(doubles, rows, data, notes)
    if any(mask.any() for mask in masks.values()):
        counts = ", ".join(f"{int(mask.sum()):,} of {split}" for split, mask in masks.items() if mask.any())
        notes(f"dropped because they are there twice (data.deduplicate: {data.deduplicate}): {counts}")
        rows = {split: list(compress(its, ~masks[split])) for split, its in rows.items()}
        facts, rows = _survey(recipe, rows, dropped)
    dropped.say(notes)
    found = (
        sources,
        dropped.report(),
        doubles.repeats,
        doubles.conflicts,
        [asdict(leak) for leak in doubles.leaks],
        {split: int(mask.sum()) for split, mask in masks.items()},
    )
    return Gathered(rows, facts, {"notes": list(notes.said), **dict(zip(REPORTED, found, strict=True))})


def with_named_columns(row: Row, recipe: Recipe) -> Row:
    """The row with those of our columns too that the task finds by its options."""
    named = TASKS[recipe.task.kind].named_columns(recipe.task, row.values)
    return replace(row, values={**row.values, **named}) if named else row


def sources_digest(data: DataConfig) -> str:
    """A name for all that decides the rows: what is in the files and how they are read, but not how they are weighted.

    Raises DataError with every path that stands for nothing.
    """
    faults = Faults()
    told: dict[str, Any] = {
        key: getattr(data, key) for key in ("guess_columns", "text_unit", "on_bad_row", "deduplicate")
    }
    for split, source in _numbered(data):
        try:
            told.setdefault(split, []).append([source.columns, _digest(source, split)])
        except FindError as error:
            faults.add(error.where, error.what)
    faults.raise_if_any()
    told |= {split: share.model_dump() for split in SPLITS if (share := data.share(split)) is not None}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _digest(source: SourceConfig, split: str) -> list[str]:
    if is_dataset(source.path):
        return [dataset_digest(source, split)]
    return [f"{format_of(file)}:{file_digest(file)}" for file in find_files(source.path)]


def _numbered(data: DataConfig) -> list[tuple[str, SourceConfig]]:
    """The sources of all splits in the order of their numbers, their columns resolved."""
    return [
        (split, source.model_copy(update={"columns": data.columns if source.columns is None else source.columns}))
        for split in SPLITS
        for source in data.sources(split)
    ]


class _Notes:
    """Says everything once."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.said: dict[str, None] = {}

    def __call__(self, text: str) -> None:
        if text not in self.said:
            self.said[text] = None
            self._say(text)


class _Dropped:
    """What data.on_bad_row makes of bad rows, and which there were."""

    def __init__(self, on_bad_row: Literal["error", "skip"]) -> None:
        self._are_skipped = on_bad_row == "skip"
        self._faults = Faults()
        self._rows: Counter[str] = Counter()

    def unread(self, faults: Mapping[str, Faults]) -> None:
        """Takes what was wrong with each split when it was read; what is no row was dropped by that."""
        for split, its in faults.items():
            self._faults.update(its)
            self._rows[split] += its.num_rows
        self._refuse(self._faults)

    def without(self, faults: Faults, splits: Splits) -> Splits:
        """The splits without the rows that are wrong. Raises BadRows if they may not be dropped, or if they are all."""
        self._refuse(faults)
        self._faults.update(faults)
        left = {split: [row for row in rows if row.key not in faults.rows] for split, rows in splits.items()}
        if all(len(left[split]) == len(rows) for split, rows in splits.items()):
            raise BadRows(faults)  # they are not ours to drop
        for split, rows in left.items():
            self._rows[split] += len(splits[split]) - len(rows)
        self.refuse_empty(left)
        return left

    def refuse_empty(self, splits: Splits) -> None:
        """Raises DataError if a split has no row left."""
        for split, rows in splits.items():
            if not rows and self._rows[split]:
                raise DataError(f"{split}: no row is left, for all {self._rows[split]:,} are wrong:\n{self._faults}")

    def say(self, notes: _Notes) -> None:
        if self._faults:
            by_split = ", ".join(f"{count:,} of {split}" for split, count in self._rows.items() if count)
            reasons = "; ".join(f"{count:,} x {reason}" for reason, count in self._faults.reasons.most_common(10))
            first = "\n  ".join(self._faults.first)
            notes(f"rows skipped (data.on_bad_row): {by_split}: {reasons}; the first are\n  {first}")

    def report(self) -> dict[str, Any]:
        """Rows by split and by what is wrong with them, and the first few."""
        reasons = dict(self._faults.reasons.most_common())
        return {"rows": dict(+self._rows), "reasons": reasons, "first": self._faults.first}

    def _refuse(self, faults: Faults) -> None:
        if faults and not (self._are_skipped and faults.are_rows_alone):
            raise BadRows(faults)


def _read(recipe: Recipe, notes: _Notes, dropped: _Dropped) -> tuple[Splits, list[dict[str, Any]]]:
    """The rows of the splits that have sources, and how many each source has."""
    data, task = recipe.data, TASKS[recipe.task.kind]
    rows: Splits = {}
    counts = []
    faults: dict[str, Faults] = {}
    for number, (split, source) in enumerate(_numbered(data)):
        name = source.name or source.path
        its = read_source(
            source,
            faults.setdefault(split, Faults()),
            number=number,
            split=split,
            synonyms=task.column_guesses if data.guess_columns else {},
            text_unit=data.text_unit,
            say=_prefixed(notes, name),
        )
        rows.setdefault(split, []).extend(with_named_columns(row, recipe) for row in its)
        counts.append({"split": split, "name": name, "path": source.path, "rows": len(its)})
    dropped.unread(faults)
    dropped.refuse_empty(rows)
    return rows, counts


def _prefixed(notes: _Notes, prefix: str) -> Say:
    return lambda text: notes(f"{prefix}: {text}")


def _hold_out(rows: Splits, data: DataConfig, task: type[Task], notes: _Notes, dropped: _Dropped) -> Splits:
    """All splits, those too that are shares of the training rows."""
    faults = Faults()
    shares = held_out(rows["train"], data, task.input_columns, faults)
    if faults:
        shares = dropped.without(faults, shares)
    for split, its in shares.items():
        if not its:
            raise DataError(f"data.{split}: no row is left for it of {len(rows['train']):,}; change the fractions")
        if split != "train":
            share = len(its) / len(rows["train"])
            notes(f"{split}: {len(its):,} of {len(rows['train']):,} training rows are held out ({share:.1%})")
    splits = rows | shares
    return {split: splits[split] for split in SPLITS if split in splits}


def _survey(recipe: Recipe, rows: Splits, dropped: _Dropped) -> tuple[dict[str, Any], Splits]:
    """The task's facts, and the rows that it has not found wrong."""
    while True:
        try:
            return TASKS[recipe.task.kind].survey(recipe.task, rows), rows
        except BadRows as error:
            rows = dropped.without(error.faults, rows)


def _say_doubles(doubles: Duplicates, rows: Splits, data: DataConfig, notes: _Notes) -> None:
    for leak in doubles.leaks:
        if leak.rows:
            share = leak.rows / len(rows[leak.of])
            mends = "train" if leak.inside == "train" else "all"
            hint = f"; data.deduplicate: {mends} mends that" if data.deduplicate not in (mends, "all") else ""
            notes(
                f"leak: of {leak.rows:,} rows of {leak.of} ({share:.1%}) the model reads the same in {leak.inside}, as "
                f"{leak.first[0]}{hint}"
            )
    for split, count in doubles.repeats.items():
        if count:
            notes(f"{split}: {count:,} rows repeat an earlier one ({count / len(rows[split]):.1%})")
    for split, count in doubles.conflicts.items():
        if count:
            notes(f"{split}: {count:,} rows have the inputs of another row, and another answer")
