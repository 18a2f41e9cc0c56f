"""When two rows are the same: hashes of what is in some of their columns, so that no text has to be kept."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardtune.rows.source import Row

Digests = NDArray[np.uint64]


class Read(NamedTuple):
    """Of some rows, what tells apart those that a model does not take for the same; each of shape (rows,)."""

    inputs: Digests
    """The same for rows that hold the same in the columns that the model reads, but for white space."""
    whole: Digests
    """The same if what it is to answer is the same too."""


def digests(rows: Iterable[Row], inputs: Sequence[str], answers: Sequence[str]) -> Read:
    """Of 10 million different rows, two have the same number with a probability of 3 in a million."""
    others = [name for name in answers if name not in inputs]
    read, answered = [], []
    for row in rows:
        read.append(_of_texts(held_in(row, inputs)))
        answered.append(_of_texts({name: its for name in others if (its := row.values.get(name)) is not None}))
    of_inputs = np.array(read, dtype=np.uint64)
    return Read(of_inputs, _mixed(of_inputs, np.array(answered, dtype=np.uint64)))


def _of_texts(values: Mapping[str, Any]) -> int:
    """64 bits that the values decide; much sooner than by `digest` if all of them are texts."""
    if not all(type(value) is str for value in values.values()):
        return digest(values)
    texts = "\0".join(f"{name}\0{' '.join(values[name].split())}" for name in sorted(values))
    if texts.count("\0") != max(0, 2 * len(values) - 1):
        return digest(values)
    hashed = hashlib.blake2b(texts.encode("utf-8", errors="surrogatepass"), digest_size=8)
    return int.from_bytes(hashed.digest(), "little")


def _mixed(one: Digests, other: Digests) -> Digests:
    """A digest of two (the finalizer of SplitMix64, of one and an odd multiple of the other)."""
    mixed: Digests = one + other * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def held_in(row: Row, inputs: Sequence[str]) -> Mapping[str, Any]:
    """What the row has in these columns, but for nulls; all of it if it has none of the inputs.

    A task may read other columns than it says, such as those that its options name: what is the same to it is then not
    known, and two rows must not be taken for one.
    """
    if all(row.values.get(name) is None for name in inputs):
        return row.values
    return {name: value for name in inputs if (value := row.values.get(name)) is not None}


# Made once: json.dumps makes an encoder for every value, unless it is told nothing.
_AS_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=repr).encode


def digest(value: Any, *, seed: int = 0) -> int:
    """64 bits that the value decides, spread evenly; another seed, others."""
    canonical = _AS_JSON(_plain(value))
    hashed = hashlib.blake2b(
        canonical.encode("utf-8", errors="surrogatepass"), digest_size=8, key=seed.to_bytes(8, "little")
    )
    return int.from_bytes(hashed.digest(), "little")


def _plain(value: Any) -> Any:
    """The value with each run of white space in a text as one space, and none at its ends."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
