"""From a recipe to the rows of its splits: read, held out, freed of bad rows and of duplicates, and surveyed.

Whatever is chosen or dropped on the way is noted in the report. The work is done piece by piece, shared by all
processes; only a few bytes of each row are kept in memory.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.rows.row_faults import FAULT_CLASSES, BadRowsError, Faults
from shardtune.rows.source import choose_columns
from shardtune.trainer.data.prepare.bad_row_policy import BadRowPolicy
from shardtune.trainer.data.prepare.digests import RowDigests, digests, joined
from shardtune.trainer.data.prepare.duplicates import Duplicates
from shardtune.trainer.data.prepare.held_out import held_out, refuse_unknown_group, shares_of
from shardtune.trainer.data.prepare.near_duplicates.report import is_searched, near_report, not_searched
from shardtune.trainer.data.prepare.near_duplicates.search import find_near_rows
from shardtune.trainer.data.prepare.row_pieces import OUT, Pieces, Rows
from shardtune.trainer.data.prepare.sources import READ_CLASSES, SPLITS, ReadResult, sources_of, with_named_columns
from shardtune.trainer.data.prepare.work_queue import WorkQueue
from shardtune.trainer.tasks import TASKS, Task
from shardtune.trainer.tasks.run_survey import Observations, run_survey
from shardtune.trainer.tasks.task import Survey

REPORTED = ("sources", "bad_rows", "duplicates", "conflicts", "leaks", "deduplicated", "near_duplicates")
"""The keys of a report besides `notes` and `columns`. Earlier versions did not have the last one."""
Say = Callable[[str], None]
SplitNumbers = NDArray[np.uint8]
"""For each of all rows, the number of its split in SPLITS, or OUT; shape (rows,)."""


@dataclass(frozen=True)
class SplitRows:
    """The rows of a recipe by split, and what was found out about them."""

    pieces: Pieces
    splits: SplitNumbers
    names: tuple[str, ...]
    """The splits of the recipe; none of them is empty."""
    facts: dict[str, Any]
    """What the task has to know of the rows (Task.survey)."""
    report: dict[str, Any]
    """`notes`, `columns` (of each source, our names -> its names), and what REPORTED names; JSON values."""

    @property
    def rows(self) -> dict[str, Rows]:
        """The rows by split."""
        return {name: Rows(self.pieces, self.splits, SPLITS.index(name)) for name in self.names}


def read_splits(recipe: Recipe, say: Say, work: WorkQueue, *, piece_bytes: int | None = None) -> SplitRows:
    """All rows of the recipe. Raises DataError with all that is wrong with them, or if a split has no rows left."""
    return _SplitReader(recipe, say, work).read(piece_bytes)


class _FirstPass(NamedTuple):
    """What the first pass over a piece tells of its rows."""

    splits: SplitNumbers
    digests: RowDigests
    columns: dict[str, None]
    """The columns of the training rows, if some of these are held out."""
    faults: Faults


class _SplitReader:
    """The way from a recipe to its rows, one step a method."""

    def __init__(self, recipe: Recipe, say: Say, work: WorkQueue) -> None:
        self._recipe, self._data, self._work = recipe, recipe.data, work
        self._task: type[Task] = TASKS[recipe.task.kind]
        self._sources = sources_of(recipe)
        self._source_splits = [SPLITS.index(split) for split, _ in self._sources.numbered]
        self._shares = shares_of(recipe.data)
        self._names = tuple(split for split in SPLITS if recipe.data.sources(split) or split in self._shares)
        self._bad_rows = BadRowPolicy(recipe.data.on_bad_row)
        self._say, self._notes = say, dict[str, None]()
        self._num_passes = 0

    def read(self, piece_bytes: int | None) -> SplitRows:
        pieces, counts = self._read_sources(piece_bytes)
        try:
            splits, row_digests = self._first_pass(pieces)
            survey = self._survey(pieces, splits)
        except DataError as error:
            self._bad_rows.refuse_unread(error)
            raise
        self._bad_rows.refuse_unread(None)
        duplicates = self._find_duplicates(pieces, splits, row_digests)
        num_dropped = self._drop_duplicates(duplicates, splits)
        near = self._near_duplicates(pieces, splits, row_digests)
        if any(num_dropped.values()) or (near is not None and near["dropped"]):
            survey = self._survey(pieces, splits)
        for text in survey.notes:
            self._note(text)
        if summary := self._bad_rows.summary:
            self._note(summary)
        report = {
            "notes": list(self._notes),
            "columns": pieces.columns,
            "sources": counts,
            "bad_rows": self._bad_rows.report,
            "duplicates": duplicates.repeats,
            "conflicts": duplicates.conflicts,
            "leaks": [asdict(leak) for leak in duplicates.leaks],
            "deduplicated": num_dropped,
            "near_duplicates": near,
        }
        return SplitRows(pieces, splits, self._names, survey.facts, report)

    def _read_sources(self, piece_bytes: int | None) -> tuple[Pieces, list[dict[str, Any]]]:
        """All rows that could be read, and how many each source has."""
        size = piece_bytes or self._sources.piece_bytes
        streamed = self._data.sources("train") if self._data.streaming else ()  # whose numbers are the first ones
        heads = dict.fromkeys(range(len(streamed)), self._data.shuffle_window)
        units = self._sources.units(self._work, size, heads)
        folder = self._work.folder / "rows"
        folder.mkdir(exist_ok=True)
        results = self._work.map(
            "read",
            len(units),
            lambda number: self._sources.read(units[number], f"{number:05}", folder, size),
            READ_CLASSES,
        )
        columns, counts = [], []
        faults: dict[str, Faults] = {}
        sizes: Counter[str] = Counter()
        for number, (split, source) in enumerate(self._sources.numbered):
            own = [result for unit, result in zip(units, results, strict=True) if unit.source == number]
            columns.append(self._choose_columns(number, own, faults.setdefault(split, Faults())))
            num_rows = sum(result.num_rows for result in own)
            sizes[split] += num_rows
            counts.append({"split": split, "name": source.name or source.path, "path": source.path, "rows": num_rows})
        self._bad_rows.add_unread(faults, sizes)
        self._bad_rows.refuse_empty(sizes)
        recipe = self._recipe
        all_pieces = list(chain.from_iterable(result.pieces for result in results))
        return Pieces(folder, all_pieces, columns, lambda row: with_named_columns(row, recipe)), counts

    def _choose_columns(self, number: int, results: list[ReadResult], faults: Faults) -> dict[str, str | Sequence[str]]:
        """The columns of a source, our names -> its names; notes what its readers had to say, and adds faults."""
        _, source = self._sources.numbered[number]

        def say(text: str) -> None:
            self._note(f"{source.name or source.path}: {text}")

        if text := self._sources.file_list(number):
            say(text)
        for result in results:
            for text in result.notes:
                say(text)
            faults.update(result.faults)
        return choose_columns(
            source,
            dict.fromkeys(chain.from_iterable(result.columns for result in results)),
            sum(result.num_rows for result in results),
            faults,
            synonyms=self._task.column_guesses if self._data.guess_columns else {},
            say=say,
        )

    def _first_pass(self, pieces: Pieces) -> tuple[SplitNumbers, RowDigests]:
        """The split and the digests of every row. Notes which part of train is held out."""
        classes = (_FirstPass, RowDigests, *FAULT_CLASSES)
        looks = self._work.map("look", len(pieces.pieces), lambda number: self._look(pieces, number), classes)
        splits = np.concatenate([np.empty(0, dtype=np.uint8), *(look.splits for look in looks)])
        self._check_held_out(splits, looks)
        return splits, joined([look.digests for look in looks])

    def _look(self, pieces: Pieces, number: int) -> _FirstPass:
        """The first pass over a piece."""
        split = self._source_splits[pieces.pieces[number].source]
        is_divided = SPLITS[split] == "train" and bool(self._shares)
        inputs, answers = self._task.input_columns, [*self._task.columns, *self._task.column_guesses]
        faults, columns = Faults(), dict[str, None]()
        splits, row_digests = [], []
        for rows in pieces.chunks(number):
            numbers = np.full(len(rows), split, dtype=np.uint8)
            if is_divided:
                new_faults = Faults()
                names = held_out(rows, self._data, inputs, new_faults)
                numbers = np.select([names == name for name in SPLITS], range(len(SPLITS)), OUT).astype(np.uint8)
                numbers[[row.key in new_faults.rows for row in rows]] = OUT
                faults.update(new_faults)
                for row in rows:
                    columns.update(dict.fromkeys(row.values))
            splits.append(numbers)
            row_digests.append(digests(rows, inputs, answers))
        return _FirstPass(np.concatenate(splits), joined(row_digests), columns, faults)

    def _check_held_out(self, splits: SplitNumbers, looks: list[_FirstPass]) -> None:
        """Notes which part of train is held out. Raises DataError if that leaves a split empty, or is not possible."""
        if not self._shares:
            return
        refuse_unknown_group(self._data, dict.fromkeys(chain.from_iterable(look.columns for look in looks)))
        faults = Faults()
        for look in looks:
            faults.update(look.faults)
        if faults:
            self._bad_rows.skip(faults)
            self._bad_rows.count({"train": int((splits == OUT).sum())})
        sizes = self._sizes(splits)
        self._bad_rows.refuse_empty(sizes)
        total = sizes["train"] + sum(sizes[name] for name in self._shares)
        for name in ("train", *self._shares):
            if not sizes[name]:
                raise DataError(f"data.{name}: no rows left for it out of {total:,}; change the fractions")
            if name != "train":
                share = sizes[name] / total
                self._note(f"{name}: {sizes[name]:,} of {total:,} training rows are held out ({share:.1%})")

    def _survey(self, pieces: Pieces, splits: SplitNumbers) -> Survey:
        """The task's survey, complete. Rows that it finds wrong are dropped from `splits`, and it begins again."""
        while True:
            survey, faults = self._task.survey(self._recipe.task), Faults()
            run_survey(survey, faults, lambda survey, faults: self._observe(survey, faults, pieces, splits))
            if self._shares and survey.found_unlearnable and self._keep_in_train(survey, pieces, splits):
                continue
            if not faults:
                return survey
            self._drop_bad_rows(faults, pieces, splits)

    def _keep_in_train(self, survey: Survey, pieces: Pieces, splits: SplitNumbers) -> bool:
        """Moves held-out rows to train whose label no training row has; returns whether there are any."""

        def find(number: int) -> dict[str, list[int]]:
            return {
                name: [
                    int(pieces.starts[number]) + int(at)
                    for located in pieces.chunks_of(number, splits, SPLITS.index(name))
                    for row, at in zip(located.rows, located.numbers, strict=True)
                    if survey.is_unlearnable(row)
                ]
                for name in self._shares
            }

        found = self._work.map(self._next_pass("unlearnable"), len(pieces.pieces), find)
        for name in self._shares:
            rows = list(chain.from_iterable(by_split[name] for by_split in found))
            if rows:
                splits[rows] = SPLITS.index("train")
                kept, whose = ("row is", "its") if len(rows) == 1 else ("rows are", "their")
                self._note(
                    f"{name}: {len(rows):,} held-out {kept} kept in train: no other training row has {whose} label"
                )
        return any(rows for by_split in found for rows in by_split.values())

    def _observe(self, survey: Survey, faults: Faults, pieces: Pieces, splits: SplitNumbers) -> Observations:
        """One pass of a survey over all rows; adds the faults that it finds."""

        def observe(number: int) -> tuple[dict[str, list[Any]], Faults]:
            new_faults, observations = Faults(), dict[str, list[Any]]()
            for name in self._names:
                for located in pieces.chunks_of(number, splits, SPLITS.index(name)):
                    observations.setdefault(name, []).append(survey.observe(name, located.rows, new_faults))
            return observations, new_faults

        combined: dict[str, list[Any]] = {name: [] for name in self._names}
        classes = (*survey.observed, *FAULT_CLASSES)
        for observations, new_faults in self._work.map(self._next_pass("survey"), len(pieces.pieces), observe, classes):
            for name, observed in observations.items():
                combined[name] += observed
            faults.update(new_faults)
        return combined

    def _drop_bad_rows(self, faults: Faults, pieces: Pieces, splits: SplitNumbers) -> None:
        """Drops the rows with faults from `splits`. Raises BadRowsError if that is not allowed, or drops no row."""
        self._bad_rows.skip(faults)

        def find(number: int) -> list[int]:
            bad: list[int] = []
            for name in self._names:
                for located in pieces.chunks_of(number, splits, SPLITS.index(name)):
                    is_bad = [row.key in faults.rows for row in located.rows]
                    bad += (int(pieces.starts[number]) + located.numbers[is_bad]).tolist()
            return bad

        bad = list(chain.from_iterable(self._work.map(self._next_pass("wrong"), len(pieces.pieces), find)))
        if not bad:
            raise BadRowsError(faults)
        before = self._sizes(splits)
        splits[bad] = OUT
        after = self._sizes(splits)
        self._bad_rows.count({name: before[name] - after[name] for name in self._names})
        self._bad_rows.refuse_empty(after)

    def _find_duplicates(self, pieces: Pieces, splits: SplitNumbers, row_digests: RowDigests) -> Duplicates:
        masks = {name: splits == SPLITS.index(name) for name in self._names}
        duplicates = Duplicates(
            {name: RowDigests(row_digests.inputs[mask], row_digests.whole[mask]) for name, mask in masks.items()},
            lambda name, at: str(Rows(pieces, splits, SPLITS.index(name))[at]),
        )
        for text in duplicates.notes(self._data.deduplicate):
            self._note(text)
        return duplicates

    def _drop_duplicates(self, duplicates: Duplicates, splits: SplitNumbers) -> dict[str, int]:
        """Drops the duplicates that data.deduplicate names from `splits`; returns how many, by split.

        Raises DataError if a split has no rows left.
        """
        mode = self._data.deduplicate
        masks = duplicates.dropped(mode)
        num_dropped = {name: int(mask.sum()) for name, mask in masks.items()}
        if by_split := ", ".join(f"{count:,} of {name}" for name, count in num_dropped.items() if count):
            self._note(f"duplicates dropped (data.deduplicate: {mode}): {by_split}")
        for name, mask in masks.items():
            splits[np.flatnonzero(splits == SPLITS.index(name))[mask]] = OUT
        faults = Faults()
        for name, size in self._sizes(splits).items():
            if (count := num_dropped[name]) and not size:
                reason = f"all {count:,} are duplicates within this or another split (data.deduplicate: {mode})"
                faults.add(f"data.{name}", f"no rows left: {reason}")
        faults.raise_if_any()
        return num_dropped

    def _near_duplicates(self, pieces: Pieces, splits: SplitNumbers, row_digests: RowDigests) -> dict[str, Any] | None:
        """Looks for near duplicates between splits, and drops those from `splits` that data.near_duplicates names."""
        sizes = self._sizes(splits)
        if not is_searched(self._data, sizes):
            if text := not_searched(self._data, sizes):
                self._note(text)
            return None
        found = find_near_rows(pieces, splits, self._task.input_columns, row_digests.inputs, self._work)
        report = near_report(found, sizes, self._data.near_duplicates, lambda number: str(pieces.row(number)))
        for text in report.notes:
            self._note(text)
        splits[report.dropped] = OUT
        return report.as_json()

    def _sizes(self, splits: SplitNumbers) -> dict[str, int]:
        return {name: int((splits == SPLITS.index(name)).sum()) for name in self._names}

    def _note(self, text: str) -> None:
        """Says each text once."""
        if text not in self._notes:
            self._notes[text] = None
            self._say(text)

    def _next_pass(self, name: str) -> str:
        """The name of a further pass over all rows, in the work queue."""
        self._num_passes += 1
        return f"{name}-{self._num_passes}"
