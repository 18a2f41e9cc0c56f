"""Data sets of the `datasets` library: on the Hugging Face hub, or folders saved by it.

The library is imported only where a data set is loaded: importing takes seconds, and most recipes name files.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from shardtune.rows.hub_access import hub_fault
from shardtune.rows.input_file import Record, place_in_words
from shardtune.rows.readers.tables import ROWS_AT_ONCE, damage_reported, reason_of, rows_of
from shardtune.rows.row_faults import Faults, RowLocation
from shardtune.rows.source_config import SourceConfig
from shardtune.rows.source_files import HUB, FindError, file_digest, is_hub

OUR_SPLITS = {"train": ("train", "training"), "dev": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Our splits -> their names in data sets; the first one that exists is used."""


def read_dataset(
    source: SourceConfig, split: str, faults: Faults, say: Callable[[str], None]
) -> Iterator[tuple[Path, Record]]:
    """The rows of the source's data set, each with its path. Raises FindError if it cannot be loaded."""
    dataset = _load(source, split, say)
    path = Path(source.path)

    def place(item: int) -> RowLocation:
        return RowLocation(place_in_words(path, 0, item), (path, item), was_read=False)

    # As Arrow, because as Python objects the library would decode images and audio that no task here reads.
    tables = dataset.with_format("arrow").iter(batch_size=ROWS_AT_ONCE)
    with damage_reported(path, faults, "a data set"):
        for record in rows_of(tables, dataset.features.arrow_schema, faults, say=say, place=place):
            yield path, record


def dataset_digest(source: SourceConfig, split: str, digest_of: Callable[[Path], str] = file_digest) -> str:
    """A digest of the rows: of the files of the data set, its columns, and the part of it that is used."""
    dataset = _load(source, split, lambda _: None)
    digest = hashlib.sha256(json.dumps([str(dataset.features), source.split, len(dataset)]).encode())
    for file in dataset.cache_files:
        digest.update(digest_of(Path(file["filename"])).encode())
    return digest.hexdigest()


def _load(source: SourceConfig, split: str, say: Callable[[str], None]) -> Any:
    import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    name = source.path.removeprefix(HUB)
    fault = hub_fault() if is_hub(source.path) and not Path(name).is_absolute() else None
    try:
        if is_hub(source.path):
            loaded = datasets.load_dataset(name, source.subset, split=source.split, revision=source.revision)
        else:
            loaded = datasets.load_from_disk(source.path)
    except (
        # For a damaged folder, the library raises whatever its code runs into.
        *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
        *(datasets.exceptions.DatasetsError, pa.ArrowException, yaml.YAMLError),
    ) as error:
        if fault is not None:
            raise FindError(source.path, f"the hub cannot be reached ({fault}), and its cache lacks it") from error
        raise FindError(source.path, f"cannot be loaded by the datasets library: {_reasons(error)}") from error
    if isinstance(loaded, dict):
        name = _split_name(source, split, loaded)
        say(f"using split {name!r}")
        return loaded[name]
    if not is_hub(source.path) and source.split is not None:
        raise FindError(source.path, f"is a single split; remove split: {source.split}")
    return loaded


def _split_name(source: SourceConfig, split: str, existing: Collection[str]) -> str:
    wanted = (source.split,) if source.split is not None else OUR_SPLITS[split]
    names = [name for name in wanted if name in existing]
    if not names and source.split is None and split == "train" and len(existing) == 1:
        names = list(existing)
    if not names:
        listed = ", ".join(existing) or "none"
        raise FindError(source.path, f"no split {wanted[0]!r}; found: {listed}. Choose one with `split`")
    return names[0]


def _reasons(error: BaseException) -> str:
    """The first line of the error, and of its cause."""
    reasons = [reason_of(cause) for cause in (error, error.__cause__) if cause is not None]
    return "; ".join(dict.fromkeys(reasons))
