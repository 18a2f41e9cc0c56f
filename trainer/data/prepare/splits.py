"""From a recipe to the rows of its splits: read, held out, freed of bad and of double ones, and surveyed.

Whatever is chosen or dropped on the way is said, and stands in the report. All of it is done piece by piece, by all who
work together; what has to be known of all rows is a few bytes for each.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shardtune.errors import DataError
from shardtune.recipe.schema import DataConfig, Recipe
from shardtune.rows.hub import dataset_digest
from shardtune.rows.input_file import format_of
from shardtune.rows.parallel_text import sides_of
from shardtune.rows.row_faults import BadRowsError, Faults
from shardtune.rows.source import Row, choose_columns
from shardtune.rows.source_config import SourceConfig
from shardtune.rows.source_files import FindError, find_files, is_dataset
from shardtune.trainer.data.prepare.digests import Read as Digested
from shardtune.trainer.data.prepare.digests import digests
from shardtune.trainer.data.prepare.duplicates import Duplicates
from shardtune.trainer.data.prepare.fingerprints import Fingerprints
from shardtune.trainer.data.prepare.held_out import held_out, refuse_unknown_group, shares_of
from shardtune.trainer.data.prepare.row_pieces import OUT, Pieces, Read, Rows, Sources
from shardtune.trainer.data.prepare.task_facts import Observations, run_survey
from shardtune.trainer.data.prepare.work_queue import WorkQueue
from shardtune.trainer.tasks import TASKS, Task
from shardtune.trainer.tasks.task import Survey

SPLITS = ("train", "dev", "test")
REPORTED = ("sources", "bad_rows", "duplicates", "conflicts", "leaks", "deduplicated")
"""What a report has besides the notes."""
Say = Callable[[str], None]
OfAllRows = NDArray[np.uint8]
"""The number of each row's split in SPLITS, or OUT."""


@dataclass(frozen=True)
class SplitRows:
    """The rows that a recipe means, and what was found out about them."""

    pieces: Pieces
    splits: OfAllRows
    names: tuple[str, ...]
    """Of the splits that there are; none is empty."""
    facts: dict[str, Any]
    """What the task has to know of the rows (Task.survey)."""
    report: dict[str, Any]
    """`notes`, all that was said, and the numbers of it; `columns`, of each source ours -> theirs. JSON values."""

    @property
    def rows(self) -> dict[str, Rows]:
        """By split."""
        return {name: Rows(self.pieces, self.splits, SPLITS.index(name)) for name in self.names}


def read_splits(recipe: Recipe, say: Say, work: WorkQueue, *, piece_bytes: int | None = None) -> SplitRows:
    """All rows of the recipe. Raises DataError with whatever is wrong with them, or if a split has none left."""
    return _SplitReader(recipe, say, work).all(piece_bytes)


def with_named_columns(row: Row, recipe: Recipe) -> Row:
    """The row with those of our columns too that the task finds by its options."""
    named = TASKS[recipe.task.kind].named_columns(recipe.task, row.values)
    return replace(row, values={**row.values, **named}, file_columns=row.columns) if named else row


def sources_digest(data: DataConfig, known: Fingerprints) -> str:
    """A name for all that decides the rows: what is in the files and how they are read, but not how they are weighted.

    Raises DataError with every path that stands for nothing.
    """
    faults = Faults()
    told: dict[str, Any] = {
        key: getattr(data, key) for key in ("guess_columns", "text_unit", "on_bad_row", "deduplicate")
    }
    for split, source in _numbered(data):
        try:
            digest_of = _state_of if data.streaming and split == "train" else known.of
            told.setdefault(split, []).append([source.columns, _digest(source, split, digest_of)])
        except FindError as error:
            faults.add(error.where, error.what)
    faults.raise_if_any()
    if data.streaming:
        told["streaming"] = data.shuffle_window
    told |= {split: share.model_dump() for split in SPLITS if (share := data.share(split)) is not None}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def sources_of(data: DataConfig) -> Sources:
    """Where all rows are read from."""
    return Sources(_numbered(data), data.text_unit)


def _digest(source: SourceConfig, split: str, digest_of: Callable[[Path], str]) -> list[str]:
    if is_dataset(source.path):
        return [dataset_digest(source, split, digest_of)]
    return [f"{format_of(file)}:{digest_of(file)}" for file in find_files(source.path)]


def _state_of(path: Path) -> str:
    """What tells that a file is the one that it was, without reading it: a stream is read but once."""
    states = [(its, its.stat()) for its in sides_of(path).values() or [path]]
    return ":".join(f"{its.absolute()} {stat.st_size} {stat.st_mtime_ns}" for its, stat in states)


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

    def unread(self, faults: Mapping[str, Faults], sizes: Mapping[str, int]) -> None:
        """Takes what was wrong with each split when it was read; what is no row was dropped by that. `sizes` are the
        rows that each split has.

        Raises BadRowsError if they may not be dropped, and nothing can be learned of the rows that were read: that more
        is wrong than single rows, or that none is left. Or else refuse_unread is to be called, when all are known.
        """
        for split, its in faults.items():
            self._faults.update(its)
            self._rows[split] += its.num_rows
        if not self._faults.are_rows_alone or any(not sizes[split] for split in faults):
            self._refuse(self._faults)

    def refuse_unread(self, others: DataError | None) -> None:
        """Raises BadRowsError with the rows that could not be read, if they may not be dropped: and with what is wrong
        with others too, if that is known."""
        if self._faults and not self._are_skipped:
            if isinstance(others, BadRowsError):
                self._faults.update(others.faults)
            raise BadRowsError(self._faults) from None

    def take(self, faults: Faults, rows: Mapping[str, int]) -> None:
        """Takes what is wrong with so many rows of each split. Raises BadRowsError if they may not be dropped."""
        self._refuse(faults)
        self._faults.update(faults)
        self._rows.update(rows)

    def refuse_empty(self, sizes: Mapping[str, int]) -> None:
        """Raises DataError if a split has no row left."""
        for split, size in sizes.items():
            if not size and self._rows[split]:
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
            raise BadRowsError(faults)


@dataclass(frozen=True)
class _Seen:
    """What a first look at a piece tells."""

    splits: OfAllRows
    inputs: NDArray[np.uint64]
    whole: NDArray[np.uint64]
    columns: dict[str, None]
    faults: Faults


class _SplitReader:
    """The way from a recipe to its rows, a step a method."""

    def __init__(self, recipe: Recipe, say: Say, work: WorkQueue) -> None:
        self._recipe, self._data, self._work = recipe, recipe.data, work
        self._task: type[Task] = TASKS[recipe.task.kind]
        self._notes, self._dropped = _Notes(say), _Dropped(recipe.data.on_bad_row)
        self._num_stages = 0
        shares = shares_of(recipe.data)
        self._names = tuple(split for split in SPLITS if recipe.data.sources(split) or split in shares)

    def all(self, piece_bytes: int | None) -> SplitRows:
        pieces, counts = self._read(piece_bytes)
        try:
            splits, digested, facts = self._know(pieces)
        except DataError as error:
            self._dropped.refuse_unread(error)
            raise
        self._dropped.refuse_unread(None)
        rows = {name: Rows(pieces, splits, SPLITS.index(name)) for name in self._names}
        own = {name: splits == SPLITS.index(name) for name in self._names}
        doubles = Duplicates(
            {name: Digested(digested.inputs[its], digested.whole[its]) for name, its in own.items()},
            lambda split, at: str(rows[split][at]),
        )
        self._say_doubles(doubles, {name: int(its.sum()) for name, its in own.items()})
        masks = doubles.dropped(self._data.deduplicate)
        if any(mask.any() for mask in masks.values()):
            counted = ", ".join(f"{int(mask.sum()):,} of {split}" for split, mask in masks.items() if mask.any())
            self._notes(f"dropped because they are there twice (data.deduplicate: {self._data.deduplicate}): {counted}")
            for name, mask in masks.items():
                splits[np.flatnonzero(own[name])[mask]] = OUT
            self._refuse_emptied({name: int(mask.sum()) for name, mask in masks.items()}, splits)
            facts = self._survey(pieces, splits)
        self._dropped.say(self._notes)
        found = (
            counts,
            self._dropped.report(),
            doubles.repeats,
            doubles.conflicts,
            [asdict(leak) for leak in doubles.leaks],
            {split: int(mask.sum()) for split, mask in masks.items()},
        )
        report = {"notes": list(self._notes.said), "columns": pieces.columns, **dict(zip(REPORTED, found, strict=True))}
        return SplitRows(pieces, splits, self._names, facts, report)

    def _refuse_emptied(self, dropped: Mapping[str, int], splits: OfAllRows) -> None:
        faults = Faults()
        for name, count in dropped.items():
            if count and not (splits == SPLITS.index(name)).any():
                faults.add(
                    f"data.{name}",
                    f"no row is left: all {count:,} are there twice, in it or in another split "
                    f"(data.deduplicate: {self._data.deduplicate})",
                )
        faults.raise_if_any()

    def _read(self, piece_bytes: int | None) -> tuple[Pieces, list[dict[str, Any]]]:
        """All rows that there are, and how many each source has."""
        sources = sources_of(self._data)
        size = piece_bytes or sources.piece_bytes
        are_heads = [self._data.streaming and split == "train" for split, _ in sources.numbered]
        heads = {number: self._data.shuffle_window for number, is_head in enumerate(are_heads) if is_head}
        readings = sources.readings(self._work, size, heads)
        folder = self._work.folder / "rows"
        folder.mkdir(exist_ok=True)
        reads = self._work.map(
            "read", len(readings), lambda unit: sources.read(readings[unit], f"{unit:05}", folder, size)
        )
        columns, counts = [], []
        faults: dict[str, Faults] = {}
        sizes: Counter[str] = Counter()
        for number, (split, source) in enumerate(sources.numbered):
            its = [read for reading, read in zip(readings, reads, strict=True) if reading.source == number]
            name = source.name or source.path
            columns.append(self._take(source, name, sources.files[number], its, faults.setdefault(split, Faults())))
            num_rows = sum(read.num_rows for read in its)
            sizes[split] += num_rows
            counts.append({"split": split, "name": name, "path": source.path, "rows": num_rows})
        self._dropped.unread(faults, sizes)
        self._dropped.refuse_empty(sizes)
        own = self._recipe
        all_pieces = list(chain.from_iterable(read.pieces for read in reads))
        self._split_of_source = [SPLITS.index(split) for split, _ in sources.numbered]
        return Pieces(folder, all_pieces, columns, lambda row: with_named_columns(row, own)), counts

    def _know(self, pieces: Pieces) -> tuple[OfAllRows, Digested, dict[str, Any]]:
        """Each row's split and digests, and the task's facts."""
        seen = self._look(pieces)
        splits = np.concatenate([np.empty(0, dtype=np.uint8), *(its.splits for its in seen)])
        self._hold_out(pieces, splits, seen)
        digested = Digested(
            np.concatenate([np.empty(0, dtype=np.uint64), *(its.inputs for its in seen)]),
            np.concatenate([np.empty(0, dtype=np.uint64), *(its.whole for its in seen)]),
        )
        del seen
        return splits, digested, self._survey(pieces, splits)

    def _take(
        self, source: SourceConfig, name: str, files: list[Any], reads: list[Read], faults: Faults
    ) -> dict[str, str]:
        """Says what was said when a source was read, adds what was wrong, and chooses its columns."""

        def say(text: str) -> None:
            self._notes(f"{name}: {text}")

        if len(files) > 1:
            more = f" and {len(files) - 3:,} more" if len(files) > 3 else ""
            say(f"{len(files):,} files: {', '.join(path.name for path in files[:3])}{more}")
        for read in reads:
            for text in read.said:
                say(text)
            faults.update(read.faults)
        return choose_columns(
            source,
            dict.fromkeys(chain.from_iterable(read.columns for read in reads)),
            sum(read.num_rows for read in reads),
            faults,
            synonyms=self._task.column_guesses if self._data.guess_columns else {},
            say=say,
        )

    def _look(self, pieces: Pieces) -> list[_Seen]:
        """Each row's split and digests."""
        answers = [*self._task.columns, *self._task.column_guesses]
        inputs = self._task.input_columns

        def look(number: int) -> _Seen:
            split = self._split_of_source[pieces.pieces[number].source]
            faults, columns = Faults(), dict[str, None]()
            splits, read = [], []
            for rows in pieces.chunks(number):
                own = Faults()
                names = held_out(rows, self._data, inputs, own) if split == 0 else np.full(len(rows), SPLITS[split])
                codes = np.select([names == name for name in SPLITS], range(len(SPLITS)), OUT).astype(np.uint8)
                if own.rows:
                    codes[[row.key in own.rows for row in rows]] = OUT
                faults.update(own)
                splits.append(codes)
                read.append(digests(rows, inputs, answers))
                if split == 0 and shares_of(self._data):
                    for row in rows:
                        columns.update(dict.fromkeys(row.values))
            return _Seen(
                np.concatenate(splits),
                np.concatenate([its.inputs for its in read]),
                np.concatenate([its.whole for its in read]),
                columns,
                faults,
            )

        return self._work.map("look", len(pieces.pieces), look)

    def _hold_out(self, pieces: Pieces, splits: OfAllRows, seen: list[_Seen]) -> None:
        """Says which part of train was held out, and that some of it could not be, if so."""
        shares = shares_of(self._data)
        if not shares:
            return
        faults = Faults()
        refuse_unknown_group(self._data, list(dict.fromkeys(chain.from_iterable(its.columns for its in seen))), faults)
        faults.raise_if_any()
        for its in seen:
            faults.update(its.faults)
        total = sum(piece.num_rows for piece in pieces.pieces if self._split_of_source[piece.source] == 0)
        if faults:
            self._dropped.take(faults, {"train": int((splits == OUT).sum())})
        sizes = {name: int((splits == SPLITS.index(name)).sum()) for name in self._names}
        self._dropped.refuse_empty(sizes)
        left = total - int((splits == OUT).sum())
        for name, share in (("train", sizes["train"]), *((name, sizes[name]) for name in shares)):
            if not share:
                raise DataError(f"data.{name}: no row is left for it of {left:,}; change the fractions")
            if name != "train":
                self._notes(f"{name}: {share:,} of {left:,} training rows are held out ({share / left:.1%})")

    def _survey(self, pieces: Pieces, splits: OfAllRows) -> dict[str, Any]:
        """The task's facts; rows that it finds wrong are taken out of `splits`."""

        def look(survey: Survey, faults: Faults) -> Observations:
            def at(number: int) -> tuple[dict[str, list[Any]], Faults]:
                own, looks = Faults(), dict[str, list[Any]]()
                for name in self._names:
                    for its in pieces.chunks_of(number, splits, SPLITS.index(name)):
                        looks.setdefault(name, []).append(survey.look(name, its.rows, own))
                return looks, own

            found = self._work.map(self._stage("survey"), len(pieces.pieces), at)
            together: dict[str, list[Any]] = {name: [] for name in self._names}
            for looks, own in found:
                for name, its in looks.items():
                    together[name] += its
                faults.update(own)
            return together

        while True:
            survey, faults = self._task.survey(self._recipe.task), Faults()
            run_survey(survey, faults, look)
            if not faults:
                return survey.facts
            self._drop(faults, pieces, splits)

    def _drop(self, faults: Faults, pieces: Pieces, splits: OfAllRows) -> None:
        """Takes the wrong rows out of `splits`. Raises BadRowsError if they may not be dropped, or are none of ours."""
        self._dropped.take(faults, {})
        before = {name: int((splits == SPLITS.index(name)).sum()) for name in self._names}

        def wrong(number: int) -> list[int]:
            start = int(pieces.starts[number])
            found = []
            for name in self._names:
                for its in pieces.chunks_of(number, splits, SPLITS.index(name)):
                    at = [row.key in faults.rows for row in its.rows]
                    found += (start + its.numbers[at]).tolist()
            return found

        rows = list(chain.from_iterable(self._work.map(self._stage("wrong"), len(pieces.pieces), wrong)))
        if not rows:
            raise BadRowsError(faults)
        splits[rows] = OUT
        after = {name: int((splits == SPLITS.index(name)).sum()) for name in self._names}
        self._dropped.take(Faults(), {name: before[name] - after[name] for name in self._names})
        self._dropped.refuse_empty(after)

    def _stage(self, name: str) -> str:
        self._num_stages += 1
        return f"{name}-{self._num_stages}"

    def _say_doubles(self, doubles: Duplicates, sizes: Mapping[str, int]) -> None:
        for leak in doubles.leaks:
            if leak.rows:
                share = leak.rows / sizes[leak.of]
                mends = "train" if leak.inside == "train" else "all"
                is_mended = self._data.deduplicate in (mends, "all")
                hint = "" if is_mended else f"; data.deduplicate: {mends} mends that"
                self._notes(
                    f"leak: of {leak.rows:,} rows of {leak.of} ({share:.1%}) the model reads the same in "
                    f"{leak.inside}, as {leak.first[0]}{hint}"
                )
        for split, count in doubles.repeats.items():
            if count:
                self._notes(f"{split}: {count:,} rows repeat an earlier one ({count / sizes[split]:.1%})")
        for split, count in doubles.conflicts.items():
            if count:
                self._notes(f"{split}: {count:,} rows have the inputs of another row, and another answer")
