"""Data sets of the `datasets` library: those on the Hugging Face hub, and folders that it has saved.

The library is imported where a data set is loaded: it takes seconds, and most recipes name files.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from shardtune.rows.input_file import Record, place_in_words
from shardtune.rows.row_faults import Faults, RowLocation
from shardtune.rows.source_config import SourceConfig
from shardtune.rows.source_files import HUB, FindError, file_digest, is_hub
from shardtune.rows.tables import ROWS_AT_ONCE, damage_said, reason_of, rows_of

OUR_SPLITS = {"train": ("train", "training"), "dev": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""What data sets call our splits; the first one that is there is taken."""


def read_dataset(
    source: SourceConfig, split: str, faults: Faults, say: Callable[[str], None]
) -> Iterator[tuple[Path, Record]]:
    """The rows of the source's data set, with its path. Raises FindError if it cannot be loaded."""
    dataset = _load(source, split, say)
    path = Path(source.path)

    def place(item: int) -> RowLocation:
        return RowLocation(place_in_words(path, 0, item), (path, item), was_read=False)

    # As Arrow, for as Python objects the library would decode pictures and sounds that no task here reads.
    tables = dataset.with_format("arrow").iter(batch_size=ROWS_AT_ONCE)
    with damage_said(path, faults, "a data set"):
        for record in rows_of(tables, dataset.features.arrow_schema, faults, say=say, place=place):
            yield path, record


def dataset_digest(source: SourceConfig, split: str, digest_of: Callable[[Path], str] = file_digest) -> str:
    """A name for the rows: for the files of the data set, what their columns are, and which part of them is meant."""
    dataset = _load(source, split, lambda _: None)
    digest = hashlib.sha256(json.dumps([str(dataset.features), source.split, len(dataset)]).encode())
    for file in dataset.cache_files:
        digest.update(digest_of(Path(file["filename"])).encode())
    return digest.hexdigest()


def _load(source: SourceConfig, split: str, say: Callable[[str], None]) -> Any:
    import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    try:
        if is_hub(source.path):
            loaded = datasets.load_dataset(
                source.path.removeprefix(HUB), source.subset, split=source.split, revision=source.revision
            )
        else:
            loaded = datasets.load_from_disk(source.path)
    except (
        # Of a folder that is not as it should be, the library raises what its code happens to run into.
        *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
        *(datasets.exceptions.DatasetsError, pa.ArrowException, yaml.YAMLError),
    ) as error:
        raise FindError(source.path, f"cannot be loaded by the datasets library: {_reasons(error)}") from error
    if isinstance(loaded, dict):
        name = _split_name(source, split, loaded)
        say(f"its split {name!r} is taken")
        return loaded[name]
    if not is_hub(source.path) and source.split is not None:
        raise FindError(source.path, f"is one split by itself; remove split: {source.split}")
    return loaded


def _split_name(source: SourceConfig, split: str, there: Collection[str]) -> str:
    wanted = (source.split,) if source.split is not None else OUR_SPLITS[split]
    names = [name for name in wanted if name in there]
    if not names and source.split is None and split == "train" and len(there) == 1:
        names = list(there)
    if not names:
        listed = ", ".join(there) or "none"
        raise FindError(source.path, f"it has no split {wanted[0]!r}; its splits: {listed}. Name one by `split`")
    return names[0]


def _reasons(error: BaseException) -> str:
    """The first line of the error, and of the one that it came from."""
    reasons = [reason_of(its) for its in (error, error.__cause__) if its is not None]
    return "; ".join(dict.fromkeys(reasons))
