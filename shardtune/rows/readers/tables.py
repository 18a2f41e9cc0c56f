"""Rows of Arrow tables: Parquet files, Arrow files, and data sets loaded by the `datasets` library.

pyarrow is imported only where a table is read, because the launcher reads recipes too.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardtune.rows.input_file import COMPRESSIONS, File, Record
from shardtune.rows.row_faults import Faults, RowLocation

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 1000


def read_parquet(file: File, faults: Faults) -> Iterator[Record]:
    """The rows of a Parquet file."""
    from pyarrow import parquet

    with damage_reported(file.path, faults, "Parquet"), _opened(file) as source:
        table = parquet.ParquetFile(source)
        batches = table.iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False)
        yield from rows_of(batches, table.schema_arrow, faults, say=file.say, place=_places(file))


def read_arrow(file: File, faults: Faults) -> Iterator[Record]:
    """The rows of an Arrow file, or of an Arrow stream saved to a file."""
    from pyarrow import ipc

    with damage_reported(file.path, faults, "Arrow"), _opened(file) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            reader = ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            reader = batches = ipc.open_stream(source)
        yield from rows_of(batches, reader.schema, faults, say=file.say, place=_places(file))


def rows_of(
    batches: "Iterable[pa.RecordBatch | pa.Table]",
    schema: "pa.Schema",
    faults: Faults,
    *,
    say: Callable[[str], None],
    place: Callable[[int], RowLocation],
) -> Iterator[Record]:
    """The rows of all batches, numbered from 1, with the numbers of a `datasets.ClassLabel` replaced by names.

    Raises what pyarrow raises for damaged data, and ValueError if two columns have the same name.
    """
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"two columns of one name: {', '.join(schema.names[:20])}")
    features = {name: feature for name, feature in _features(schema).items() if name in schema.names}
    named = {name: feature for name, feature in features.items() if _names_in(feature)}
    for name, feature in named.items():
        listed = ", ".join(f"{number} = {label}" for number, label in enumerate(_names_in(feature)[:20]))
        say(f"the numbers in {name} are replaced by the names stored with the data: {listed}")
    item = 0
    for batch in batches:
        batch.validate(full=True)  # otherwise damaged offsets would be followed out of bounds
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            for values in batch.slice(start, ROWS_AT_ONCE).to_pylist():
                item += 1
                try:
                    values |= {name: _named(values[name], feature) for name, feature in named.items()}
                except IndexError as error:
                    faults.add(place(item), str(error))
                else:
                    yield Record(values, item=item)


def _places(file: File) -> Callable[[int], RowLocation]:
    return lambda item: file.place(item=item)


@contextmanager
def _opened(file: File) -> "Iterator[pa.NativeFile]":
    import pyarrow as pa

    if file.path.suffix.lower() in COMPRESSIONS:  # these formats are read from the end
        with file.open() as stream:
            content = stream.read()
        yield pa.BufferReader(content)
    else:
        with pa.OSFile(str(file.path)) as source:
            yield source


@contextmanager
def damage_reported(where: Path, faults: Faults, name: str) -> Iterator[None]:
    """Turns the errors that pyarrow raises for damaged data into a fault."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError, RecursionError, OSError) as error:
        faults.add(where, f"cannot be read as {name} ({reason_of(error)})")


def reason_of(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(". ") if lines else type(error).__name__


def _features(schema: "pa.Schema") -> Mapping[str, Any]:
    """The column features that the `datasets` library stored as JSON; empty if it did not write the table."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _names_in(feature: Any) -> list[str]:
    """The names of the ClassLabel that is or is inside this feature; empty if there is none."""
    if isinstance(feature, list):
        return next((names for item in feature if (names := _names_in(item))), [])
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel":
        given = feature.get("names")
        return [str(name) for name in given] if isinstance(given, list) else []
    return next((names for item in feature.values() if (names := _names_in(item))), [])


def _named(value: Any, feature: Any) -> Any:
    """The value with names instead of numbers; -1, which means no label, becomes None. Raises IndexError."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    if not isinstance(feature, dict) or value is None:
        return value
    if isinstance(value, list):
        return [_named(item, feature.get("feature", feature)) for item in value]
    if isinstance(value, dict):
        inside = feature["feature"] if "_type" in feature and "feature" in feature else feature
        return {key: _named(item, inside.get(key) if isinstance(inside, dict) else None) for key, item in value.items()}
    if feature.get("_type") != "ClassLabel" or type(value) is not int:
        return value
    labels = _names_in(feature)
    if not labels:
        return value
    if not -1 <= value < len(labels):
        raise IndexError(f"label {value} is not one of the {len(labels)} labels that have names in the data")
    return labels[value] if value >= 0 else None
