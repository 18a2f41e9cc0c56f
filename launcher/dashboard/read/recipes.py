"""The recipes of runs as flat mappings, and the keys by which runs differ."""

import re
from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import yaml

from shardtune.recipe.explain import dotted
from shardtune.recipe.yaml_lines import KeyPath

MOST_BYTES = 2**20
"""A larger config.yaml is not read."""
_TOP = re.compile(r"^(?=[A-Za-z_]+:)", re.MULTILINE)
"""Where a key at the top of a recipe begins."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time, where PyYAML was built with libyaml


def flatten(text: str) -> dict[str, Any]:
    """The values of a resolved recipe by dotted key, `optim.lr`; empty if the text is not a YAML mapping."""
    values: dict[str, Any] = {}
    for section in _TOP.split(text):
        # Most sections of a sweep's runs are the same, and YAML is slow.
        if (flat := _flatten(section)) is None:
            return _flatten(text) or {}
        values |= flat
    return values


@lru_cache(maxsize=1000)
def _flatten(text: str) -> dict[str, Any] | None:
    """The values of a YAML mapping by dotted key; None if the text is none, an empty mapping if it is empty."""
    loader = None
    try:
        loader = _LOADER(text)
        value = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    finally:
        if loader is not None:
            loader.dispose()
    if value is None:
        return {}
    return dict(_flat((), value)) if isinstance(value, dict) else None


def differing_keys(recipes: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys to which the recipes that have them give different values, in the order of the recipes."""
    values: dict[str, set[Hashable]] = {}
    for recipe in recipes:
        for key, value in recipe.items():
            values.setdefault(key, set()).add(repr(value))
    return [key for key, given in values.items() if len(given) > 1]


def _flat(path: KeyPath, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat((*path, str(key)), inner)
    elif path:
        yield dotted(path), value
