"""The ways to compute that the speed part compares, as keys of a recipe; which of them this version has, its schema
says."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardtune.recipe.schema import Recipe


@dataclass(frozen=True, eq=False)  # each is one of a few, and none is equal to another
class Variant:
    """A way to compute."""

    name: str
    keys: Mapping[str, str]
    """Keys of the recipe, and their values."""
    missing: str | None = None
    """Why it cannot be measured, if it cannot."""

    @property
    def of_trainer(self) -> dict[str, Any]:
        """The settings by which transformers.Trainer uses the same kernels."""
        return {
            "attention": self.keys["model.attention"],
            "compile": self.keys.get("engine.compile", "off") != "off",
            "liger": self.keys.get("engine.kernels") == "liger",
        }


def legal_values(key: str, schema: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The names that the recipe's schema allows as the value of a key such as model.attention; none if it has no such
    key."""
    whole = Recipe.model_json_schema() if schema is None else schema
    at: Mapping[str, Any] = whole
    for part in key.split("."):
        while "$ref" in at:
            at = whole["$defs"][at["$ref"].rpartition("/")[2]]
        at = at.get("properties", {}).get(part, {})
    return tuple(_names(at))


def _names(at: Any) -> Iterator[str]:
    """All names in the enums of a part of a schema."""
    if isinstance(at, Mapping):
        yield from (name for name in [*at.get("enum", ()), at.get("const")] if isinstance(name, str))
        for key in ("anyOf", "oneOf"):
            yield from (name for part in at.get(key, ()) for name in _names(part))


def variants(installed: Sequence[str], schema: Mapping[str, Any] | None = None) -> tuple[Variant, ...]:
    """The variants: not compiled with sdpa, then with varlen or flash attention, and with it the compiler, or Liger.

    `installed` are optional packages that are there.
    """
    attention = _attention(legal_values("model.attention", schema), installed)
    keys = {"model.attention": "sdpa"}
    for key, value in (("engine.compile", "off"), ("engine.kernels", "torch")):
        if value in legal_values(key, schema):
            keys[key] = value
    found = [Variant("eager", dict(keys))]
    if attention is not None:
        keys["model.attention"] = attention
    found.append(Variant("+ varlen", dict(keys), None if attention else "not in this version"))
    for name, key, value, package in (
        ("+ compile", "engine.compile", "regional", None),
        ("+ liger", "engine.kernels", "liger", "liger_kernel"),
    ):
        missing = None if value in legal_values(key, schema) else "not in this version"
        if missing is None and package is not None and package not in installed:
            missing = f"{package} is not installed"
        found.append(Variant(name, keys if missing else {**keys, key: value}, missing))
    return tuple(found)


def _attention(legal: Sequence[str], installed: Sequence[str]) -> str | None:
    """The attention that keeps packed rows apart without a mask: torch's own, or that of flash-attn."""
    own = [name for name in legal if "varlen" in name]
    flash = [name for name in legal if "flash" in name and "flash_attn" in installed]
    return next(iter([*own, *flash]), None)
