"""The recipes of runs as flat mappings, and the keys by which runs differ."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import yaml

from shardtune.recipe.explain import dotted
from shardtune.recipe.yaml_lines import KeyPath

MOST_BYTES = 2**20
"""A larger config.yaml is not read."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time, where PyYAML was built with libyaml


def flatten(text: str) -> dict[str, Any]:
    """The values of a resolved recipe by dotted key, `optim.lr`; empty if the text is not a YAML mapping."""
    loader = None
    try:
        loader = _LOADER(text)
        value = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    finally:
        if loader is not None:
            loader.dispose()
    return dict(_flat((), value)) if isinstance(value, dict) else {}


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
