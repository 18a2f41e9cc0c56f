"""The patterns of `model.freeze`: what they may look like, and which weights each names."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

EMBEDDINGS = "embeddings"
"""The word for all that is looked up, in any architecture."""
_LAYERS, _RANGE = "layers:", re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


class LayerRange(NamedTuple):
    """Layers of each stack, counted from 0; `last` belongs to them."""

    first: int
    last: int


def layer_range(pattern: str) -> LayerRange | None:
    """The layers that `layers:0-5` or `layers:3` names; None for any other pattern. Raises ValueError."""
    if not pattern.startswith(_LAYERS):
        return None
    found = _RANGE.fullmatch(pattern.removeprefix(_LAYERS))
    if found is None:
        raise ValueError(f"freeze: got {pattern!r}; write layers:0-5, or layers:3 for a single one")
    first, last = int(found[1]), int(found[2] or found[1])
    if first > last:
        raise ValueError(f"freeze: got {pattern!r}, whose first layer comes after its last; exchange them")
    return LayerRange(first, last)


def parts_of(pattern: str) -> list[str]:
    """The parts of a name pattern between its dots; a dot at its end is left out. Raises ValueError if one is empty."""
    parts = pattern.removesuffix(".").split(".")
    if not all(parts):
        raise ValueError(f"freeze: got {pattern!r}; write names as the model has them, such as encoder.layer.[0-5]")
    return parts


def matches(pattern: str, name: str) -> bool:
    """Whether the pattern is found anywhere in a dotted name: as many parts of it in a row, each matched as a glob."""
    wanted, given = parts_of(pattern), name.split(".")
    return any(
        all(fnmatchcase(part, glob) for part, glob in zip(given[start:], wanted, strict=False))
        for start in range(len(given) - len(wanted) + 1)
    )


def refuse_malformed(patterns: Sequence[str]) -> None:
    """Raises ValueError if one of the patterns cannot name anything, or is given twice."""
    for number, pattern in enumerate(patterns):
        if layer_range(pattern) is None:
            parts_of(pattern)
        if pattern in patterns[:number]:
            raise ValueError(f"freeze: {pattern!r} is listed twice; remove one")
