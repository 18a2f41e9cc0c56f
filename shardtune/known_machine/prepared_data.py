"""The exact token counts of a recipe's prepared data, where they are in the cache; read without a tokenizer.

What names prepared data is a digest of all that they depend on, which only the trainer computes. It notes under which
name the data of a recipe are; a note is valid for the same recipe, and for as long as nobody writes to its files.
"""

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.errors import DataError
from shardtune.home import expand_home
from shardtune.recipe.schema import Recipe
from shardtune.rows.readers.parallel_text import sides_of
from shardtune.rows.source_files import find_files, is_dataset
from shardtune.run_dir.files import write_atomically

NOTES = "notes"
"""The folder of the cache with the names of prepared data."""
SPLITS = ("train", "dev", "test")
NOT_CONTENT = frozenset({"cache_dir", "prepare_processes", "length_window", "packing", "shuffle_window", "fraction"})
"""Keys of `data` on which the prepared rows do not depend."""
LOOKED_AT = 20_000
"""Rows by whose lengths padding is estimated, at most: the first whole windows."""


@dataclass(frozen=True)
class TokenCounts:
    """What is in prepared data."""

    num_rows: int
    """Training rows as the model sees them: pieces of long texts are rows too."""
    tokens: int
    """Of the training rows together, after truncation; of dev and test likewise."""
    dev_tokens: int
    test_tokens: int
    square_sum: float
    """The sum of the squares of the lengths."""
    useful: float | None
    """The part of the computed tokens that is not padding if each row is computed alone; None if it is not known."""

    @property
    def attended(self) -> float:
        """The mean length of the row that a token is in."""
        return self.square_sum / max(1, self.tokens)


def note_prepared(recipe: Recipe, folder: Path) -> None:
    """Notes that the prepared data of the recipe are in this folder of its cache. A cache that cannot be written to has
    no notes."""
    with contextlib.suppress(OSError, DataError):
        if (name := _name_of(recipe)) is not None:
            path = folder.parent / NOTES / f"{name}.json"
            if not path.is_file() or path.read_text(encoding="utf-8") != json.dumps(folder.name):
                path.parent.mkdir(exist_ok=True)
                write_atomically(path, json.dumps(folder.name))


def token_counts(recipe: Recipe) -> TokenCounts | None:
    """The counts of the recipe's prepared data; None if they are not in the cache, or one cannot tell."""
    try:
        if (name := _name_of(recipe)) is None:
            return None
        cache = expand_home(recipe.data.cache_dir)
        folder = cache / json.loads((cache / NOTES / f"{name}.json").read_text(encoding="utf-8"))
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        return _counts(recipe, folder, meta["splits"])
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def _counts(recipe: Recipe, folder: Path, splits: dict[str, Any]) -> TokenCounts:
    import numpy as np

    lengths = np.load(folder / "train.lengths.npy", allow_pickle=False).astype(np.float64)
    dev, test = (int(splits.get(name, {}).get("tokens", 0)) for name in SPLITS[1:])
    return TokenCounts(
        num_rows=int(splits["train"]["examples"]),
        tokens=int(splits["train"]["tokens"]),
        dev_tokens=dev,
        test_tokens=test,
        square_sum=float(np.square(lengths).sum()),
        useful=_useful(recipe, lengths),
    )


def _useful(recipe: Recipe, lengths: Any) -> float | None:
    """The part of the tokens of the first windows that is not padding, if each rank gets neighbors of a step whose rows
    are sorted by length, in micro-batches of the recipe; None where rows are not counted."""
    import numpy as np

    train, job = recipe.train, recipe.job
    if train.global_batch_tokens is not None or not len(lengths):
        return None
    batch = train.global_batch_size
    window = max(1, recipe.length_window) * batch
    rows = max(1, batch // max(1, job.ranks or 1))
    if train.micro_batch_tokens != "auto":
        rows = min(rows, max(1, train.micro_batch_tokens // recipe.data.max_tokens))
    count = max(window, LOOKED_AT // window * window)
    generator = np.random.default_rng(0)
    # To draw from many rows takes less time than to put all of them into another order.
    many = len(lengths) > 10 * count
    chosen = lengths[generator.integers(len(lengths), size=count)] if many else generator.permutation(lengths)[:count]
    padded = 0.0
    for start in range(0, len(chosen), window):
        part = chosen[start : start + window]
        part = np.sort(part) if recipe.length_window else part
        for first in range(0, len(part), batch):  # of a step, each rank gets rows that are neighbors
            step = np.sort(part[first : first + batch])
            for at in range(0, len(step), rows):
                one = step[at : at + rows]
                padded += float(one.max()) * len(one)
    return float(chosen.sum()) / padded if padded else None


def _name_of(recipe: Recipe) -> str | None:
    """A digest of the recipe and of when its files were written to; None for data that is not in files of this machine,
    and for sources with weights. Raises OSError and DataError."""
    data = recipe.data
    sources = [source for split in SPLITS for source in data.sources(split)]
    if data.streaming or any(is_dataset(source.path) or source.weight != 1 for source in sources):
        return None
    files = [
        path for source in sources for file in find_files(source.path) for path in sides_of(file).values() or [file]
    ]
    model = Path(recipe.model.path)
    if model.is_dir():
        files += sorted(path for path in model.iterdir() if path.suffix != ".safetensors" and path.is_file())
    states = [(str(path.absolute()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    options = {key: value for key, value in data.model_dump(mode="json").items() if key not in NOT_CONTENT}
    model_name = [str(model.absolute()) if model.is_dir() else recipe.model.path, recipe.model.revision]
    content = [recipe.task.model_dump(mode="json"), options, model_name, states]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]
