"""Splits that depend on a name alone, so that they stay the same when rows are added."""

import hashlib
from collections.abc import Mapping


def place(name: str) -> float:
    """A number from 0 to 1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def split_of(name: str, shares: Mapping[str, float]) -> str:
    """The split of what has this name, by the share of each; `train` where they leave room."""
    at = place(name)
    for split, share in shares.items():
        if at < share:
            return split
        at -= share
    return "train"
