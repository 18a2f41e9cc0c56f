"""Digests of rows, by which duplicates are found, so that no text has to be kept in memory."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardtune.rows.source import Row

Digests = NDArray[np.uint64]


class RowDigests(NamedTuple):
    """The digests of some rows; each of shape (rows,)."""

    inputs: Digests
    """Equal for rows with the same values in the columns that the model reads, white space aside."""
    whole: Digests
    """Equal if the answers are the same too."""


def digests(rows: Iterable[Row], inputs: Sequence[str], answers: Sequence[str]) -> RowDigests:
    """The digests of the rows, by the names of their input and answer columns.

    Among 10 million different rows, two have the same digest with a probability of 3 in a million.
    """
    answers = [name for name in answers if name not in inputs]
    of_inputs, of_answers = [], []
    for row in rows:
        of_inputs.append(_digest_texts(input_values(row, inputs)))
        of_answers.append(
            _digest_texts({name: value for name in answers if (value := row.values.get(name)) is not None})
        )
    input_digests = np.array(of_inputs, dtype=np.uint64)
    return RowDigests(input_digests, _mixed(input_digests, np.array(of_answers, dtype=np.uint64)))


def joined(parts: Sequence[RowDigests]) -> RowDigests:
    """The digests of some rows after those of others."""
    none = np.empty(0, dtype=np.uint64)
    inputs, whole = ([none, *arrays] for arrays in ([part.inputs for part in parts], [part.whole for part in parts]))
    return RowDigests(np.concatenate(inputs), np.concatenate(whole))


def _digest_texts(values: Mapping[str, Any]) -> int:
    """A digest of 64 bits; much faster than `digest` if all values are texts."""
    if not all(type(value) is str for value in values.values()):
        return digest(values)
    texts = "\0".join(f"{name}\0{' '.join(values[name].split())}" for name in sorted(values))
    if texts.count("\0") != max(0, 2 * len(values) - 1):
        return digest(values)
    hashed = hashlib.blake2b(texts.encode("utf-8", errors="surrogatepass"), digest_size=8)
    return int.from_bytes(hashed.digest(), "little")


def _mixed(one: Digests, other: Digests) -> Digests:
    """One digest of two (the finalizer of SplitMix64, applied to one plus an odd multiple of the other)."""
    mixed: Digests = one + other * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def input_values(row: Row, inputs: Sequence[str]) -> Mapping[str, Any]:
    """The row's values in the input columns, without nulls; all of its values if it has none of these columns.

    A task may read other columns than it declares, such as those that its options name. What is the same input is then
    not known, and two different rows must not be taken for duplicates.
    """
    if all(row.values.get(name) is None for name in inputs):
        return row.values
    return {name: value for name in inputs if (value := row.values.get(name)) is not None}


# Made once: json.dumps makes an encoder for every value if any option is given.
_AS_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=repr).encode


def digest(value: Any, *, seed: int = 0) -> int:
    """A digest of 64 bits, evenly distributed; another seed gives another digest."""
    canonical = _AS_JSON(_plain(value))
    hashed = hashlib.blake2b(
        canonical.encode("utf-8", errors="surrogatepass"), digest_size=8, key=seed.to_bytes(8, "little")
    )
    return int.from_bytes(hashed.digest(), "little")


def _plain(value: Any) -> Any:
    """The value with the white space of its texts normalized: single spaces, none at the ends."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
