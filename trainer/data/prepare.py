"""Rows -> encoded examples on disk, once, before any process group exists.

Content-addressed: the same data, tokenizer and options are never prepared twice; half a folder is never read.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainer.config.errors import DataError
from trainer.config.schema import Recipe
from trainer.data.file import place_in_words
from trainer.data.find import file_digest
from trainer.data.gather import gather, sources_digest
from trainer.data.source import Row
from trainer.tasks import TASKS
from trainer.tasks.task import TRUNCATED, Example, Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

FORMAT = 5
"""Goes up whenever the same input would be written differently, so that old folders are not read."""
ROWS_AT_ONCE = 1000


@dataclass(frozen=True, eq=False)
class Split:
    """The prepared rows of one split, memory-mapped."""

    folder: Path
    name: str

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each example; shape (rows,)."""
        lengths: NDArray[np.int32] = np.load(self.folder / f"{self.name}.lengths.npy", mmap_mode="r")
        return lengths

    @cached_property
    def num_targets(self) -> NDArray[np.float64]:
        """Labels that count, or their weights' sum, of each example; shape (rows,)."""
        num_targets: NDArray[np.float64] = np.load(self.folder / f"{self.name}.num_targets.npy", mmap_mode="r")
        return num_targets

    @cached_property
    def sources(self) -> NDArray[np.int32]:
        """The number of the source that each example is from, as the recipe lists those of train; shape (rows,)."""
        sources: NDArray[np.int32] = np.load(self.folder / f"{self.name}.sources.npy", mmap_mode="r")
        return sources

    def place(self, row: int) -> str:
        """Where the user wrote the row that an example is of, such as `train.jsonl:12`."""
        file, line, item = np.load(self.folder / f"{self.name}.places.npy", mmap_mode="r")[row].tolist()
        files: list[str] = json.loads((self.folder / f"{self.name}.files.json").read_text(encoding="utf-8"))
        return place_in_words(Path(files[file]), line, item)

    def examples(self, rows: NDArray[np.int64]) -> list[Example]:
        """These rows' examples, in the order asked for."""
        examples: list[Example] = self._table.take(pa.array(rows)).to_pylist()
        return examples

    @cached_property
    def _table(self) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self.folder / f"{self.name}.arrow"))).read_all()

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared data and what was found out while it was made."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
        return meta

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.meta["facts"]
        return facts

    def split(self, name: str) -> Split | None:
        """None if the recipe names no such split."""
        return Split(self.folder, name) if name in self.meta["splits"] else None


def prepare(recipe: Recipe, *, num_ranks: int = 1, say: Callable[[str], None] = lambda _: None) -> Prepared:
    """The recipe's prepared data, from the cache or made now; safe to call from several processes at once.

    Says what was chosen and dropped on the way, also if that was at an earlier time.
    Raises DataError for whatever is wrong with the data, the model folder or the tokenizer, or if the training rows are
    fewer than the ranks.
    """
    cache = Path(recipe.data.cache_dir).expanduser()
    prepared = Prepared(cache / fingerprint(recipe))
    was_said = False
    if not (prepared.folder / "meta.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(prepared.folder.with_suffix(".lock")):
            if not (prepared.folder / "meta.json").is_file():
                _make(recipe, prepared.folder, say)
                was_said = True
    if not was_said:
        for note in prepared.meta["notes"]:
            say(note)
    num_examples = prepared.meta["splits"]["train"]["examples"]
    if num_examples < num_ranks:
        raise DataError(
            f"data.train: {num_examples} training rows for {num_ranks} ranks; set job.ranks={num_examples} or fewer"
        )
    return prepared


def fingerprint(recipe: Recipe) -> str:
    """A name for what the prepared data depend on: the files, the tokenizer, the task's options and this format."""
    digest = hashlib.sha256()
    digest.update(f"{sources_digest(recipe.data)}\n".encode())
    folder = Path(recipe.model.path)
    files = sorted(path for path in folder.iterdir() if _is_tokenizer_file(path)) if folder.is_dir() else []
    digest.update(f"{recipe.model.path if not files else ''}@{recipe.model.revision}\n".encode())
    for path in files:
        digest.update(f"{path.name}:{file_digest(path)}\n".encode())
    options = {"task": recipe.task.model_dump(), "max_tokens": recipe.data.max_tokens}
    digest.update(json.dumps([FORMAT, options], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def load_tokenizer(recipe: Recipe) -> "PreTrainedTokenizerBase":
    """Raises DataError if the model's path holds none."""
    from transformers import AutoTokenizer

    with _said_of_model(recipe, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            recipe.model.path, revision=recipe.model.revision
        )
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            # transformers 5 makes an empty one up where the folder has no vocabulary, and every word would be unknown.
            raise ValueError("its vocabulary is empty")
    return tokenizer


def load_model_config(recipe: Recipe, task: Task | None = None) -> "PreTrainedConfig":
    """The model's config with the task's head and the recipe's dropout. Raises DataError if the path holds none."""
    from transformers import AutoConfig

    with _said_of_model(recipe, "model config"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            recipe.model.path, revision=recipe.model.revision, **(task.model_config() if task else {})
        )
    if recipe.model.dropout is not None:
        # Every architecture has names of its own for its dropouts (hidden_dropout_prob, attention_dropout, …).
        for name, value in config.to_dict().items():
            if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
                setattr(config, name, recipe.model.dropout)
    return config


def _make(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> None:
    gathered = gather(recipe, say)
    config, tokenizer = load_model_config(recipe), load_tokenizer(recipe)
    limit = min(getattr(config, "max_position_embeddings", None) or 10**9, tokenizer.model_max_length)
    if recipe.data.max_tokens > limit:
        raise DataError(f"data.max_tokens: {recipe.data.max_tokens} is more than {recipe.model.path} can take: {limit}")
    task = TASKS[recipe.task.kind](recipe.task, gathered.facts, tokenizer, config)
    task.check_model(config)

    draft = folder.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    splits = {}
    notes: list[str] = gathered.report["notes"]
    for split, its_rows in gathered.rows.items():
        say(f"tokenizing {split}: {len(its_rows):,} rows")
        splits[split] = _write_split(draft, split, task, its_rows, recipe.data.max_tokens)
        num_said = len(notes)
        if splits[split]["rows_dropped"]:
            notes.append(f"{split}: {splits[split]['rows_dropped']:,} rows dropped: nothing to learn was left of them")
        if splits[split]["rows_truncated"]:
            notes.append(f"{split}: {splits[split]['rows_truncated']:,} rows truncated to data.max_tokens")
        for note in notes[num_said:]:
            say(note)
    meta = {"format": FORMAT, "facts": gathered.facts, "splits": splits, **gathered.report}
    (draft / "meta.json").write_text(json.dumps(meta, ensure_ascii=False, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def _write_split(folder: Path, name: str, task: Task, rows: Sequence[Row], max_tokens: int) -> dict[str, Any]:
    lengths: list[int] = []
    num_targets: list[float] = []
    sources: list[int] = []
    files: dict[str, int] = {}
    places: list[tuple[int, int, int]] = []
    num_dropped = num_truncated = 0
    tables = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        window = rows[start : start + ROWS_AT_ONCE]
        by_row = task.encode(window, max_tokens, labelled=True)
        num_dropped += sum(not examples for examples in by_row)
        chunk = [example for examples in by_row for example in examples]
        num_truncated += sum(bool(example.pop(TRUNCATED, False)) for example in chunk)
        lengths += [task.num_tokens(example) for example in chunk]
        of = [row for row, examples in zip(window, by_row, strict=True) for _ in examples]
        sources += [row.source for row in of]
        places += [(files.setdefault(str(row.path), len(files)), row.line, row.item) for row in of]
        num_targets += [task.num_targets(example) for example in chunk]
        if chunk:
            # By name: from_pylist would leave out what the first example happens to lack.
            names = sorted({name for example in chunk for name in example})
            tables.append(pa.table({name: [example.get(name) for example in chunk] for name in names}))
    if not any(num_targets):
        raise DataError(f"{rows[0].path}: nothing to learn is left of its {len(rows):,} rows; see data.max_tokens")
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()
    with pa.ipc.new_file(str(folder / f"{name}.arrow"), table.schema) as file:
        file.write_table(table)
    np.save(folder / f"{name}.lengths.npy", np.array(lengths, dtype=np.int32))
    np.save(folder / f"{name}.sources.npy", np.array(sources, dtype=np.int32))
    np.save(folder / f"{name}.places.npy", np.array(places, dtype=np.int64).reshape(-1, 3))
    (folder / f"{name}.files.json").write_text(json.dumps(list(files), ensure_ascii=False), encoding="utf-8")
    np.save(folder / f"{name}.num_targets.npy", np.array(num_targets, dtype=np.float64))
    return {
        "path": str(rows[0].path),
        "rows": len(rows),
        "examples": len(lengths),
        "rows_dropped": num_dropped,
        "rows_truncated": num_truncated,
        "tokens": sum(lengths),
        "targets": sum(num_targets),
    }


def _is_tokenizer_file(path: Path) -> bool:
    wanted = ("token", "vocab", "merges", "spiece", "sentencepiece", "config.json", "chat_template")
    return path.is_file() and any(word in path.name for word in wanted)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the kernel drops the lock of one that dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _said_of_model(recipe: Recipe, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"model.path: no {what} could be loaded from {recipe.model.path!r} ({reason}); "
            "give a Hugging Face model folder, or a hub id that this machine can reach"
        ) from error
