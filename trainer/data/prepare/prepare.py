"""Rows -> encoded examples on disk, once, before any process group exists.

Content-addressed: the same data, tokenizer and options are never prepared twice; half a folder is never read.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shardtune.errors import DataError, ShardtuneError
from shardtune.recipe.schema import Recipe
from shardtune.rows.row_faults import Faults
from shardtune.run_dir.files import write_atomically
from shardtune.trainer.data.prepare.example_shards import Encoder, Split, Written, damaged
from shardtune.trainer.data.prepare.fingerprints import Fingerprints
from shardtune.trainer.data.prepare.splits import SPLITS, SplitRows, read_splits, sources_digest, sources_of
from shardtune.trainer.data.prepare.work_queue import NO_ROOM, FinishedElsewhere, Progress, WorkerKilled, WorkQueue
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks import TASKS
from shardtune.trainer.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

FORMAT = 7
"""Goes up whenever the same input would be written differently, so that old folders are not read."""
NO_LIMIT = 10**9


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared data and what was found out while it was made."""

    folder: Path
    was_made: bool = field(default=False, compare=False)
    """Whether this process has had to wait for it to be made."""

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
    def is_there(self) -> bool:
        return (self.folder / "meta.json").is_file()

    def split(self, name: str) -> Split | None:
        """None if the recipe names no such split."""
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
    """The recipe's prepared data, from the cache or made now, together with whoever else is making them.

    Any number of processes on any number of machines may call it at once. Says what was chosen and dropped on the way,
    also if that was at an earlier time.
    `num_processes` share the work on this machine, one for each core if there is enough of it; `piece_bytes` is about
    how much is one unit of it; `machine` stands for this machine in the eyes of others. The data are the same.
    Raises DataError for whatever is wrong with the data, the model folder or the tokenizer, or if the training rows are
    fewer than the ranks.
    """
    cache = Path(recipe.data.cache_dir).expanduser()
    prepared = Prepared(cache / fingerprint(recipe))
    was_said = was_made = False
    if not prepared.is_there:
        was_made = True
        with _said_of_cache(cache), _one_a_machine(prepared.folder, machine, say):
            cache.mkdir(parents=True, exist_ok=True)
            if not prepared.is_there:
                was_said = _make(recipe, prepared, say, num_processes, piece_bytes, machine, progress)
    if not was_said:
        for note in prepared.meta["notes"]:
            say(note)
    num_examples = prepared.meta["splits"]["train"]["examples"]
    if num_examples < num_ranks:
        raise DataError(
            f"data.train: {num_examples} training rows for {num_ranks} ranks; set job.ranks={num_examples} or fewer"
        )
    return replace(prepared, was_made=was_made)


def encoder_of(recipe: Recipe, task: Task) -> Encoder:
    """How the recipe has rows encoded."""
    return Encoder(task, recipe.data.max_tokens, are_bad_skipped=recipe.data.on_bad_row == "skip")


def fingerprint(recipe: Recipe) -> str:
    """A name for what the prepared data depend on: the files, the tokenizer, the task's options and this format."""
    digest = hashlib.sha256()
    known = Fingerprints(Path(recipe.data.cache_dir).expanduser() / "fingerprints")
    digest.update(f"{sources_digest(recipe.data, known)}\n".encode())
    folder = Path(recipe.model.path)
    files = sorted(path for path in folder.iterdir() if _is_tokenizer_file(path)) if folder.is_dir() else []
    digest.update(f"{recipe.model.path if not files else ''}@{recipe.model.revision}\n".encode())
    for path in files:
        digest.update(f"{path.name}:{known.of(path)}\n".encode())
    options = {"task": recipe.task.model_dump(), "max_tokens": recipe.data.max_tokens}
    digest.update(json.dumps([FORMAT, options], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def most_tokens(config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> int:
    """The largest data.max_tokens that the model allows; NO_LIMIT or more where it names none."""
    return int(min(getattr(config, "max_position_embeddings", None) or NO_LIMIT, tokenizer.model_max_length))


def _make(
    recipe: Recipe,
    prepared: Prepared,
    say: Callable[[str], None],
    num_processes: int | None,
    piece_bytes: int | None,
    machine: str,
    progress: Progress,
) -> bool:
    """Takes part in the work until it is done; whether all that there was to say has been said."""
    sources = sources_of(recipe.data)
    size = piece_bytes or sources.piece_bytes
    wanted = num_processes or recipe.data.prepare_processes or len(os.sched_getaffinity(0))
    # A process is not worth its start for less than a piece; of a data set of the hub nothing is known beforehand.
    are_files = all(sources.files)
    wanted = max(1, min(wanted, sources.num_bytes // size)) if are_files else wanted
    work = WorkQueue(
        prepared.folder.with_suffix(".draft"),
        num_processes=wanted,
        is_over=lambda: prepared.is_there,
        machine=machine,
        progress=progress,
    )
    is_done = False
    try:
        config, tokenizer = load_model_config(recipe), load_tokenizer(recipe)
        limit = most_tokens(config, tokenizer)
        if recipe.data.max_tokens > limit:
            raise DataError(
                f"data.max_tokens: {recipe.data.max_tokens} is more than {recipe.model.path} can take: {limit}"
            )
        gathered = read_splits(recipe, say, work, piece_bytes=size)
        task = TASKS[recipe.task.kind](recipe.task, gathered.facts, tokenizer, config)
        task.check_model(config)
        for name, rows in gathered.rows.items():
            say(f"tokenizing {name}: {len(rows):,} rows")
        written = _encode(recipe, task, gathered, work)

        def commit(_: int) -> None:
            if fingerprint(recipe) != prepared.folder.name:
                raise DataError("the data, or the tokenizer, have changed while they were prepared; start again")
            _commit(prepared.folder, gathered, written, work.folder / "data")

        work.map("commit", 1, commit)
        for note in prepared.meta["notes"][len(gathered.report["notes"]) :]:
            say(note)
        is_done = True
        return True
    except FinishedElsewhere:
        is_done = True
        return False
    except ShardtuneError as error:
        is_done = not isinstance(error, WorkerKilled)  # as far as it can be
        raise
    finally:
        work.leave(is_done=is_done)


def _encode(recipe: Recipe, task: Task, gathered: SplitRows, work: WorkQueue) -> list[dict[str, Written]]:
    """The examples of all rows, by piece and split, in shards in the folder `data` of the work."""
    folder = work.folder / "data"
    folder.mkdir(exist_ok=True)
    encoder = encoder_of(recipe, task)
    pa.array([None])  # which imports pandas, if it is there: once, and not in every process

    def encode(number: int) -> dict[str, Written]:
        written = {}
        for name in gathered.names:
            chunks = gathered.pieces.chunks_of(number, gathered.splits, SPLITS.index(name))
            written[name] = encoder.write(folder, f"{name}-{number:05}", (its.rows for its in chunks))
        return written

    return work.map("encode", len(gathered.pieces.pieces), encode)


def _commit(folder: Path, gathered: SplitRows, written: list[dict[str, Written]], draft: Path) -> None:
    """Writes the index beside the shards, and gives the folder its name."""
    notes: list[str] = list(gathered.report["notes"])
    splits, shards = {}, {}
    for name, rows in gathered.rows.items():
        its = [by_split[name] for by_split in written]
        counts = [len(one.lengths) for one in its]
        files: dict[str, int] = {}
        sources = [piece.source for piece in gathered.pieces.pieces]
        arrays = {
            "lengths": np.concatenate([one.lengths for one in its]),
            "num_targets": np.concatenate([one.num_targets for one in its]),
            "sources": np.repeat(np.array(sources, dtype=np.int32), counts),
            "places": np.concatenate([_renumbered(one, files) for one in its]),
        }
        first = next(iter(rows)).path
        num_rows = sum(one.num_rows for one in its)
        if not arrays["num_targets"].any():
            raise DataError(f"{first}: nothing to learn is left of its {num_rows:,} rows; see data.max_tokens")
        for kind, array in arrays.items():
            np.save(draft / f"{name}.{kind}.npy", array)
        write_atomically(draft / f"{name}.files.json", json.dumps(list(files), ensure_ascii=False))
        splits[name] = {
            "path": str(first),
            "rows": num_rows,
            "examples": sum(counts),
            "rows_dropped": sum(one.num_dropped for one in its),
            "rows_truncated": sum(one.num_truncated for one in its),
            "tokens_truncated": sum(one.num_tokens_truncated for one in its),
            "tokens": int(arrays["lengths"].sum(dtype=np.int64)),
            "targets": float(arrays["num_targets"].sum()),
        }
        shards[name] = [shard for one in its for shard in one.shards]
        notes += _notes_on(name, splits[name], [one.faults for one in its])
    meta = {
        "format": FORMAT,
        "facts": gathered.facts,
        "splits": splits,
        "shards": shards,
        **gathered.report,
        "notes": notes,
    }
    write_atomically(draft / "meta.json", json.dumps(meta, ensure_ascii=False, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def _renumbered(written: Written, files: dict[str, int]) -> NDArray[np.int32]:
    """The places of some examples, their files numbered as in `files`, which gets those that are new."""
    numbers = np.array([files.setdefault(file, len(files)) for file in written.files], dtype=np.int32)
    places = written.places.copy()
    if len(places):
        places[:, 0] = numbers[places[:, 0]]
    return places


def _notes_on(name: str, split: Mapping[str, Any], skipped: Sequence[Faults]) -> Iterator[str]:
    if split["rows_dropped"]:
        yield f"{name}: {split['rows_dropped']:,} rows dropped: nothing to learn was left of them"
    if split["rows_truncated"]:
        yield f"{name}: {split['rows_truncated']:,} rows truncated to data.max_tokens"
    together = Faults()
    for faults in skipped:
        together.update(faults)
    if together:
        first = "\n  ".join(together.first)
        yield f"{name}: {together.num_rows:,} more rows skipped (data.on_bad_row); they cannot be encoded:\n  {first}"


def _is_tokenizer_file(path: Path) -> bool:
    wanted = ("token", "vocab", "merges", "spiece", "sentencepiece", "config.json", "chat_template")
    return path.is_file() and any(word in path.name for word in wanted)


@contextmanager
def _one_a_machine(folder: Path, machine: str, say: Callable[[str], None]) -> Iterator[None]:
    """Of all processes of a machine one at a time; the kernel drops the lock of one that dies."""
    name = hashlib.sha256(f"{folder.absolute()} {machine} {os.getuid()}".encode()).hexdigest()[:24]
    path = Path(tempfile.gettempdir()) / f"shardtune-{name}.lock"
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another process of this machine prepares the same data; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):
                continue  # who had it has removed it, and the next one may hold another file of this name
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


@contextmanager
def _said_of_cache(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM and cache.is_dir():
            raise
        raise DataError(
            f"data.cache_dir: {cache} cannot be written ({error.strerror or error}); make room, or name another folder"
        ) from error


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
