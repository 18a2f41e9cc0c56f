"""Where a recipe's rows come from: the sources of all splits, what identifies them, and reading them into pieces."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO

from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.data import DataConfig
from shardtune.rows.formats import format_of, read_file
from shardtune.rows.hub import dataset_digest, read_dataset
from shardtune.rows.input_file import COMPRESSIONS, File, Part, ReadOptions, Record, encoding_of, ending_of
from shardtune.rows.readers.parallel_text import sides_of
from shardtune.rows.row_faults import FAULT_CLASSES, Faults
from shardtune.rows.source import Row, labeled, read_options
from shardtune.rows.source_config import SourceConfig
from shardtune.rows.source_files import FindError, SourceFiles, files_in_words, find_source, is_dataset
from shardtune.run_dir.files import published
from shardtune.trainer.data.prepare.fingerprints import Fingerprints
from shardtune.trainer.data.prepare.row_pieces import CHUNK_BYTES, RowPiece, chunked, store_chunk
from shardtune.trainer.data.prepare.work_queue import WorkQueue
from shardtune.trainer.tasks import TASKS

SPLITS = ("train", "dev", "test")
"""The splits by their numbers."""
HOW_READ = ("format", "encoding", "header", "separator")
"""The keys of a source that say how its files are read."""
STREAM_ORDER = "the order in which shardtune streams several files"
"""The name of what identifies this order, which an earlier version read one after the other: number 1."""
MAX_PIECES, MIN_PIECE_BYTES = 256, 1 << 20
COMPRESSION = 4
"""How much longer a compressed file is assumed to be when decompressed."""


@dataclass(frozen=True)
class ReadUnit:
    """A unit of reading: a source, some of its files, or a part of one file."""

    source: int
    files: tuple[tuple[Path, Part | None], ...]
    """Empty if the source is a data set."""
    limit: int | None = None
    """At most this many rows are read; None for all."""


@dataclass
class ReadResult:
    """What reading a unit has given."""

    pieces: list[RowPiece] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)
    """The columns that any row has, in the order in which they were found."""
    faults: Faults = field(default_factory=Faults)
    notes: list[str] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        return sum(piece.num_rows for piece in self.pieces)


READ_CLASSES = (ReadResult, RowPiece, *FAULT_CLASSES)
"""The classes in a ReadResult, for who stores it."""


class Sources:
    """The sources of all splits, by their numbers."""

    def __init__(
        self,
        numbered: Sequence[tuple[str, SourceConfig]],
        options: Sequence[ReadOptions],
        found: Sequence[SourceFiles | None] | None = None,
    ) -> None:
        """`numbered` has the split and the configuration of each source, `options` how its files are read, and `found`
        its files, if they are known."""
        self.numbered = numbered
        self._options = options
        self._known = found

    @cached_property
    def found(self) -> list[SourceFiles | None]:
        """The files of each source; None of a data set. Raises FindError if a path matches nothing."""
        if self._known is not None:
            return list(self._known)
        return [
            None if is_dataset(source.path) else find_source(source.path, options)
            for (_, source), options in zip(self.numbered, self._options, strict=True)
        ]

    def limited_to(self, units: Sequence[ReadUnit]) -> "Sources":
        """The sources with the files of these units alone, for a process that reads no others and looks for none."""
        paths = [
            {path for unit in units if unit.source == number for path, _ in unit.files}
            for number in range(len(self.numbered))
        ]
        found = [
            files
            and replace(
                files,
                files=[path for path in files.files if path in own] if own else [],
                labels={path: files.labels[path] for path in own if path in files.labels},
            )
            for files, own in zip(self.found, paths, strict=True)
        ]
        return Sources(self.numbered, self._options, found)

    @property
    def files(self) -> list[list[Path]]:
        """The files of each source; none of a data set. Raises FindError if a path matches nothing."""
        return [[] if found is None else found.files for found in self.found]

    @cached_property
    def num_bytes(self) -> int:
        """About how long all files are when decompressed; data sets are not counted."""
        return sum(file_bytes(path) for files in self.files for path in files)

    @property
    def piece_bytes(self) -> int:
        """How long a piece should be: few enough to be open at once, many enough for all cores to have one."""
        return max(MIN_PIECE_BYTES, self.num_bytes // MAX_PIECES)

    def file_list(self, number: int) -> str | None:
        """How many files a source has, and the first ones; None if there is only one."""
        found = self.found[number]
        return None if found is None else files_in_words(found)

    def units(self, work: WorkQueue, size: int, heads: Mapping[int, int] | None = None) -> list[ReadUnit]:
        """All that is to be read, divided into units of about `size` bytes; the same on every machine.

        `heads` has the sources of which only the first rows are read, and how many of them.
        """
        heads = heads or {}
        divisible = {
            path: self._has_independent_lines(path, found.options)
            for number, found in enumerate(self.found)
            if number not in heads and found is not None
            for path in found.files
        }
        parts = self._parts(work, divisible, size)
        units = []
        for number, files in enumerate(self.files):
            if number in heads:
                units.append(ReadUnit(number, tuple((path, None) for path in files), heads[number]))
            elif is_dataset(self.numbered[number][1].path):
                units.append(ReadUnit(number, ()))
            else:
                units += [ReadUnit(number, group) for group in _grouped(files, parts, size)]
        return units

    def read(self, unit: ReadUnit, name: str, folder: Path, piece_bytes: int) -> ReadResult:
        """Writes the rows of a unit into pieces in the folder, whose names begin with `name`."""
        result = ReadResult()
        with ExitStack() as stack:
            file: BinaryIO | None = None
            for path, records in self.records(unit, result):
                num_left = None if unit.limit is None else unit.limit - result.num_rows
                for chunk in chunked(islice(records, num_left)):
                    if file is None or file.tell() > piece_bytes:
                        stack.close()
                        result.pieces.append(RowPiece(f"{name}-{len(result.pieces):05}.rows", unit.source, 0))
                        draft = stack.enter_context(published(folder / result.pieces[-1].name))
                        file = stack.enter_context(draft.open("wb"))
                    last = result.pieces[-1]
                    result.pieces[-1] = RowPiece(last.name, last.source, last.num_rows + len(chunk))
                    for values, *_ in chunk:
                        result.columns.update(dict.fromkeys(values))
                    store_chunk(file, path, chunk)
        return result

    def records(self, unit: ReadUnit, result: ReadResult) -> Iterator[tuple[Path, Iterator[Record]]]:
        """The rows of a unit, file by file; adds faults and the notes of the readers to the result."""
        split, source = self.numbered[unit.source]
        say = result.notes.append
        if not unit.files:
            try:
                yield Path(source.path), (record for _, record in read_dataset(source, split, result.faults, say))
            except FindError as error:
                result.faults.add(error.where, error.what)
        found = self.found[unit.source]
        for path, part in unit.files:
            assert found is not None, "a data set has no files"
            records = read_file(File(path, found.options, say, part), result.faults)
            yield path, (labeled(record, found.labels.get(path)) for record in records)

    def _parts(self, work: WorkQueue, divisible: Mapping[Path, bool], size: int) -> dict[Path, list[Part]]:
        """The parts into which each file is cut; none of a file that is not divisible."""
        cuts = {path: _cut(path, size) if is_divisible else [] for path, is_divisible in divisible.items()}
        ranges = [(path, start, stop) for path, stretches in cuts.items() for start, stop in stretches]
        counts = iter(work.map("lines", len(ranges), lambda number: _num_lines(*ranges[number])))
        parts = {}
        for path, stretches in cuts.items():
            first_lines = list(accumulate((next(counts) for _ in stretches), initial=1))
            parts[path] = [
                Part(*stretch, first_line) for stretch, first_line in zip(stretches, first_lines, strict=False)
            ]
        return parts

    @staticmethod
    def _has_independent_lines(path: Path, options: ReadOptions) -> bool:
        """Whether each line of the file can be read by itself."""
        if path.suffix.lower() in COMPRESSIONS or sides_of(path) or encoding_of(path, options) is not None:
            return False
        name = format_of(path, options)
        return name == "jsonl" or (name == "text" and options.text_unit == "line")


def with_named_columns(row: Row, recipe: Recipe) -> Row:
    """The row with the columns added that the task finds by the names in its options."""
    named = TASKS[recipe.task.kind].named_columns(recipe.task, row.values)
    return replace(row, values={**row.values, **named}, file_columns=row.columns) if named else row


def sources_of(recipe: Recipe) -> Sources:
    """Where all rows are read from."""
    numbered = _numbered(recipe.data)
    return Sources(numbered, [_options(source, recipe) for _, source in numbered])


def _options(source: SourceConfig, recipe: Recipe) -> ReadOptions:
    return read_options(source, text_unit=recipe.data.text_unit, text_files=recipe.task.text_files)


def sources_content(recipe: Recipe, known: Fingerprints) -> dict[str, Any]:
    """All that decides the rows: the content of the files and how they are read, not how they are weighted.

    Raises DataError with every path that matches nothing.
    """
    data, faults = recipe.data, Faults()
    content: dict[str, Any] = {
        key: getattr(data, key) for key in ("guess_columns", "text_unit", "on_bad_row", "deduplicate")
    }
    if data.near_duplicates in ("count", "drop"):
        content["near_duplicates"] = data.near_duplicates
    for split, source in _numbered(data):
        try:
            digest_of = _file_state if data.streaming and split == "train" else known.of
            digests = _file_digests(source, split, digest_of, _options(source, recipe))
            content.setdefault(split, []).append([source.columns, digests])
        except FindError as error:
            faults.add(error.where, error.what)
    faults.raise_if_any()
    if data.streaming:
        content["streaming"] = data.shuffle_window
        if sum(max(1, len(files)) for files in sources_of(recipe).files[: len(data.sources("train"))]) > 1:
            content[STREAM_ORDER] = 2
    for split in SPLITS:
        if (share := data.share(split)) is not None:
            content[split] = share.model_dump(exclude={"fold"} if share.fold is None else None)
    return content


def _numbered(data: DataConfig) -> list[tuple[str, SourceConfig]]:
    """The sources of all splits in the order of their numbers, their columns resolved."""
    return [
        (split, source.model_copy(update={"columns": data.columns if source.columns is None else source.columns}))
        for split in SPLITS
        for source in data.sources(split)
    ]


def _file_digests(
    source: SourceConfig, split: str, digest_of: Callable[[Path], str], options: ReadOptions
) -> list[str]:
    """A digest of each file, and of how it is read if its name and its content do not tell."""
    if is_dataset(source.path):
        return [dataset_digest(source, split, digest_of)]
    found = find_source(source.path, options)
    defaults = SourceConfig(path=source.path)
    told = {key: value for key in HOW_READ if (value := getattr(source, key)) != getattr(defaults, key)}
    how = [json.dumps(told, sort_keys=True)] if told else []
    labels = [f"label:{label}" for label in found.labels.values()]
    return [*(f"{ending_of(file)}:{digest_of(file)}" for file in found.files), *how, *labels]


def _file_state(path: Path) -> str:
    """Identifies a file that has not changed, without reading it: a stream is read only once."""
    states = [(side, side.stat()) for side in sides_of(path).values() or [path]]
    return ":".join(f"{side.absolute()} {stat.st_size} {stat.st_mtime_ns}" for side, stat in states)


def _grouped(
    files: Sequence[Path], parts: Mapping[Path, Sequence[Part]], size: int
) -> Iterator[tuple[tuple[Path, Part | None], ...]]:
    """The files of a source by unit: each part by itself, and whole files together until they reach `size` bytes."""
    group: list[tuple[Path, None]] = []
    group_bytes = 0
    for path in files:
        if not parts[path]:
            group.append((path, None))
            group_bytes += file_bytes(path)
        if group and (parts[path] or group_bytes >= size):
            yield tuple(group)
            group, group_bytes = [], 0
        for part in parts[path]:
            yield ((path, part),)
    if group:
        yield tuple(group)


def file_bytes(path: Path) -> int:
    """About how long a file is when decompressed, or both files of a pair."""
    sizes = [side.stat().st_size for side in sides_of(path).values() or [path]]
    return sum(sizes) * (COMPRESSION if path.suffix.lower() in COMPRESSIONS else 1)


def _cut(path: Path, size: int) -> list[tuple[int, int]]:
    """Stretches of a file of about `size` bytes, each of whole lines; none if the file is no longer than that."""
    length = path.stat().st_size
    if length <= size:
        return []
    ends = [0]
    with path.open("rb") as file:
        for earliest_end in range(size, length, size):
            if earliest_end > ends[-1]:
                file.seek(earliest_end - 1)
                file.readline()
                ends.append(file.tell())
    return [(start, stop) for start, stop in zip(ends, [*ends[1:], length], strict=True) if start < stop]


def _num_lines(path: Path, start: int, stop: int) -> int:
    count = 0
    with path.open("rb") as file:
        file.seek(start)
        while start < stop and (block := file.read(min(CHUNK_BYTES, stop - start))):
            count += block.count(b"\n")
            start += len(block)
    return count
