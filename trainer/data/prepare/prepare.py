"""Rows -> encoded examples on disk, once, before any process group exists.

Content-addressed: the same data, tokenizer and options are never prepared twice. An incomplete folder is never read.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from shardtune.counted import counted
from shardtune.errors import DataError, ShardtuneError
from shardtune.home import expand_home
from shardtune.known_machine.prepared_data import note_prepared
from shardtune.recipe.schema import Recipe
from shardtune.rows.row_faults import Faults
from shardtune.run_dir.files import write_atomically
from shardtune.run_dir.run import DataIdentity
from shardtune.trainer.data.prepare.example_shards import WRITTEN_CLASSES, Encoder, Split, Written, damaged, write_index
from shardtune.trainer.data.prepare.identity import FORMAT, data_identity, fingerprint
from shardtune.trainer.data.prepare.sources import SPLITS, sources_of
from shardtune.trainer.data.prepare.splits import SplitRows, read_splits
from shardtune.trainer.data.prepare.work_queue import NO_ROOM, FinishedElsewhere, Progress, WorkerKilled, WorkQueue
from shardtune.trainer.model.head import choose_head, follow_head
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer, num_positions
from shardtune.trainer.tasks import task_of
from shardtune.trainer.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

NO_LIMIT = 10**9


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared data, and what was found out while preparing it."""

    folder: Path
    identity: DataIdentity = field(default=DataIdentity("", {}), compare=False)
    was_made: bool = field(default=False, compare=False)
    """Whether this process prepared the data, or waited for them, instead of finding them in the cache."""

    @cached_property
    def meta(self) -> dict[str, Any]:
        path = self.folder / "meta.json"
        try:
            meta: dict[str, Any] = {**json.loads(path.read_text(encoding="utf-8"))}
        except (ValueError, TypeError) as error:
            raise damaged(path, error) from error
        return meta

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.meta["facts"]
        return facts

    @property
    def exists(self) -> bool:
        return (self.folder / "meta.json").is_file()

    def described(self) -> dict[str, Any]:
        """These data in JSON's types, for ranks that are to read nothing but the examples (`described_data`)."""
        return {"folder": str(self.folder), "identity": asdict(self.identity), "meta": self.meta}

    def split(self, name: str) -> Split | None:
        """The examples of a split, or None if the recipe does not name it."""
        shards = self.meta["shards"].get(name)
        return Split(self.folder, name, [(file, count) for file, count in shards]) if shards else None


def prepare(
    recipe: Recipe,
    *,
    num_ranks: int = 1,
    say: Callable[[str], None] = lambda _: None,
    num_processes: int | None = None,
    piece_bytes: int | None = None,
    machine: str = "",
    progress: Progress = lambda *_: None,
) -> Prepared:
    """The recipe's prepared data, from the cache or prepared now, shared with all other processes that prepare them.

    Any number of processes on any number of machines may call this at once. `say` is called with what was chosen and
    dropped on the way, also if that happened earlier.
    The work on this machine is divided among `num_processes` (by default one for each core, if there is enough work),
    in units of about `piece_bytes`; `machine` identifies this machine. None of them changes the data.
    Raises DataError for all that is wrong with the data, the model folder or the tokenizer, or if there are fewer
    training rows than ranks.
    """
    cache = expand_home(recipe.data.cache_dir)
    identity = data_identity(recipe)
    prepared = Prepared(cache / identity.fingerprint, identity)
    were_notes_said = was_made = False
    if not prepared.exists:
        was_made = True
        with _explained(cache), _machine_lock(prepared.folder, machine, say):
            cache.mkdir(parents=True, exist_ok=True)
            if not prepared.exists:
                were_notes_said = _prepare(recipe, prepared, say, num_processes, piece_bytes, machine, progress)
    if not were_notes_said:
        for note in prepared.meta["notes"]:
            say(note)
    note_prepared(recipe, prepared.folder)
    _refuse_more_ranks(prepared, num_ranks)
    return replace(prepared, was_made=was_made)


def described_data(description: Mapping[str, Any]) -> Prepared:
    """The data that another process has described."""
    prepared = Prepared(Path(description["folder"]), DataIdentity(**description["identity"]))
    vars(prepared)["meta"] = description["meta"]
    return prepared


def find_prepared(recipe: Recipe, *, num_ranks: int = 1) -> Prepared | None:
    """The recipe's prepared data from the cache; None if they are not there. Raises DataError as `prepare` does."""
    identity = data_identity(recipe)
    prepared = Prepared(expand_home(recipe.data.cache_dir) / identity.fingerprint, identity)
    if not prepared.exists:
        return None
    _refuse_more_ranks(prepared, num_ranks)
    return prepared


def _refuse_more_ranks(prepared: Prepared, num_ranks: int) -> None:
    """Raises DataError if there are fewer training rows than ranks."""
    num_examples = prepared.meta["splits"]["train"]["examples"]
    if num_examples < num_ranks:
        raise DataError(
            f"data.train: {counted(num_examples, 'training row')} for {counted(num_ranks, 'rank')}; "
            f"set job.ranks={num_examples} or fewer"
        )


def encoder_of(recipe: Recipe, task: Task) -> Encoder:
    """The encoder of the recipe's rows."""
    return Encoder(task, recipe.data.max_tokens, are_bad_skipped=recipe.data.on_bad_row == "skip")


def most_tokens(config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase", *, wanted: int | None = None) -> int:
    """The largest data.max_tokens that the model allows; NO_LIMIT or more where it names none.

    A number that is too large, but at least `wanted`, may be returned if that is cheaper.
    """
    return int(min(num_positions(config, wanted=wanted) or NO_LIMIT, tokenizer.model_max_length))


def _prepare(
    recipe: Recipe,
    prepared: Prepared,
    say: Callable[[str], None],
    num_processes: int | None,
    piece_bytes: int | None,
    machine: str,
    progress: Progress,
) -> bool:
    """Takes part in preparing until the data are complete; returns whether `say` was called with all notes."""
    sources = sources_of(recipe)
    size = piece_bytes or sources.piece_bytes
    num_processes = num_processes or recipe.data.prepare_processes or len(os.sched_getaffinity(0))
    if all(sources.files):  # the size of a hub data set is not known beforehand
        # Starting a process is not worth it for less than a piece.
        num_processes = max(1, min(num_processes, sources.num_bytes // size))
    work = WorkQueue(
        prepared.folder.with_suffix(".draft"),
        num_processes=num_processes,
        is_finished=lambda: prepared.exists,
        machine=machine,
        progress=progress,
    )
    is_done = False
    try:
        config, tokenizer = load_model_config(recipe), load_tokenizer(recipe)
        limit = most_tokens(config, tokenizer, wanted=recipe.data.max_tokens)
        if recipe.data.max_tokens > limit:
            raise DataError(
                f"data.max_tokens: {recipe.data.max_tokens} is more than the maximum of {recipe.model.path}: {limit}"
            )
        split_rows = read_splits(recipe, say, work, piece_bytes=size)
        task, split_rows = _settle_task(recipe, split_rows, tokenizer, config, say)
        for name, rows in split_rows.rows.items():
            say(f"tokenizing {name}: {counted(len(rows), 'row')}")
        written = _encode(recipe, task, split_rows, work)

        def commit(_: int) -> None:
            if fingerprint(recipe) != prepared.folder.name:
                raise DataError("the data or the tokenizer changed while they were prepared; run again")
            _commit(prepared.folder, split_rows, written, work.folder / "data", task)

        work.map("commit", 1, commit)
        for note in prepared.meta["notes"][len(split_rows.report["notes"]) :]:
            say(note)
        is_done = True
        return True
    except FinishedElsewhere:
        is_done = True
        return False
    except ShardtuneError as error:
        is_done = not isinstance(error, WorkerKilled)  # whose finished units are kept for the next start
        raise
    finally:
        work.leave(is_done=is_done)


def _settle_task(
    recipe: Recipe, split_rows: SplitRows, tokenizer: Any, config: "PreTrainedConfig", say: Callable[[str], None]
) -> tuple[Task, SplitRows]:
    """The task of these rows, and the rows with the facts and notes that follow from the model.

    `say` is called with these notes. Raises DataError if the model cannot learn this task.
    """
    task = task_of(recipe, split_rows.facts, tokenizer, config)
    task.check_model(config)
    facts, note = follow_head(task, split_rows.facts, config)
    if note:
        task = task_of(recipe, facts, tokenizer, config)
    choose_head(recipe, task, config)  # so that it is refused before any rank starts
    notes = [*([note] if note else []), *task.model_notes, *task.loss_notes]
    for text in notes:
        say(text)
    report = {**split_rows.report, "notes": [*split_rows.report["notes"], *notes]}
    return task, replace(split_rows, facts=facts, report=report)


def _encode(recipe: Recipe, task: Task, split_rows: SplitRows, work: WorkQueue) -> list[dict[str, Written]]:
    """Encodes all rows into shards in the folder `data` of the work queue; what was written, by piece and split."""
    folder = work.folder / "data"
    folder.mkdir(exist_ok=True)
    encoder = encoder_of(recipe, task)
    pa.array([None])  # imports pandas, if installed: once, and not in every process

    def encode(number: int) -> dict[str, Written]:
        written = {}
        for name in split_rows.names:
            chunks = split_rows.pieces.chunks_of(number, split_rows.splits, SPLITS.index(name))
            written[name] = encoder.write(folder, f"{name}-{number:05}", (located.rows for located in chunks))
        return written

    return work.map("encode", len(split_rows.pieces.pieces), encode, WRITTEN_CLASSES)


def _commit(folder: Path, split_rows: SplitRows, written: list[dict[str, Written]], draft: Path, task: Task) -> None:
    """Writes the index beside the shards, and renames the draft to its final name."""
    notes: list[str] = list(split_rows.report["notes"])
    splits, shards = {}, {}
    for name, rows in split_rows.rows.items():
        parts = [by_split[name] for by_split in written]
        arrays = write_index(draft, name, parts, [piece.source for piece in split_rows.pieces.pieces])
        first = next(iter(rows)).path
        num_rows = sum(part.num_rows for part in parts)
        if not arrays["num_targets"].any():
            raise DataError(f"{first}: no targets are left in its {counted(num_rows, 'row')}; raise data.max_tokens")
        splits[name] = {
            "path": str(first),
            "rows": num_rows,
            "examples": len(arrays["lengths"]),
            "rows_dropped": sum(part.num_dropped for part in parts),
            "rows_truncated": sum(part.num_truncated for part in parts),
            "tokens_truncated": sum(part.num_tokens_truncated for part in parts),
            "tokens": int(arrays["lengths"].sum(dtype=np.int64)),
            "targets": float(arrays["num_targets"].sum()),
        }
        shards[name] = [shard for part in parts for shard in part.shards]
        notes += _notes_on(name, splits[name], [part.faults for part in parts])
        notes += task.notes(name, sum((part.noted for part in parts), Counter[str]()))
    meta = {
        "format": FORMAT,
        "facts": split_rows.facts,
        "splits": splits,
        "shards": shards,
        **split_rows.report,
        "notes": notes,
    }
    write_atomically(draft / "meta.json", json.dumps(meta, ensure_ascii=False, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def _notes_on(name: str, split: Mapping[str, Any], skipped: Sequence[Faults]) -> Iterator[str]:
    if split["rows_dropped"]:
        yield f"{name}: {counted(split['rows_dropped'], 'row')} dropped: no targets were left in them"
    if split["rows_truncated"]:
        yield f"{name}: {counted(split['rows_truncated'], 'row')} truncated to data.max_tokens"
    all_faults = Faults()
    for faults in skipped:
        all_faults.update(faults)
    if all_faults:
        first = "\n  ".join(all_faults.first)
        yield f"{name}: {all_faults.num_rows:,} more rows skipped (data.on_bad_row): they cannot be encoded:\n  {first}"


@contextmanager
def _machine_lock(folder: Path, machine: str, say: Callable[[str], None]) -> Iterator[None]:
    """Lets one process of a machine prepare at a time. The kernel releases the lock of a process that dies."""
    name = hashlib.sha256(f"{folder.absolute()} {machine} {os.getuid()}".encode()).hexdigest()[:24]
    try:
        path = Path(tempfile.gettempdir()) / f"shardtune-{name}.lock"
    except FileNotFoundError as error:
        raise DataError("no temporary folder can be written to; free space, or set TMPDIR to another folder") from error
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say("another process on this machine is preparing the same data; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: filelock does not accept a lock on a file that was removed
        lock.release()


@contextmanager
def _explained(cache: Path) -> Iterator[None]:
    """Raises DataError if the cache folder cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM and cache.is_dir():
            raise
        reason = error.strerror or error
        raise DataError(
            f"data.cache_dir: {cache} cannot be written to ({reason}); free space or set another folder"
        ) from error
