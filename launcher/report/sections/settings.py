"""The recipe with what differs from the defaults, and how to do the same again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from shardtune.launcher.report.parts import Code, Part, Table, Text
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.report.sections.machine import commit_of
from shardtune.recipe.load import learning_hash
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CONFIG
from shardtune.shell_line import shell_line

PACKAGES = ("shardtune", "torch", "transformers", "deepspeed")
NOT_KEY = ("data.cache_dir", "report.wandb", "report.project", "report.name")
"""Keys that say nothing of the result."""


def settings(record: RunRecord) -> list[Part]:
    """What differs from the defaults as a table, and the whole recipe with these lines marked."""
    changed = changed_settings(record.recipe) if record.recipe is not None else {}
    marked = _marked(record.config, set(changed))
    rows = [(key, value, default) for key, (value, default) in changed.items()]
    parts: list[Part] = []
    if rows:
        parts.append(Table("What differs from the defaults", ("key", "value", "default"), rows, holds_texts=True))
    if record.config:
        parts.append(Code(marked, title=f"{CONFIG}, all {len(marked)} lines" if rows else ""))
    return parts


def changed_settings(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Dotted key -> (value, default) of what the recipe sets to something else; no default for what has none."""
    values = recipe.model_dump(mode="json")
    changed = recipe.model_dump(mode="json", exclude_defaults=True)
    defaults = dict(leaves(_defaults(recipe)))
    given = dict(leaves(values))
    return {
        key: (given[key], defaults.get(key, ""))
        for key in dict(leaves(changed))
        if key in given and given[key] != defaults.get(key)
    }


def key_settings(recipe: Recipe) -> dict[str, str]:
    """Dotted key -> value of what differs from the defaults and bears on the result."""
    return {key: value for key, (value, _) in changed_settings(recipe).items() if key not in NOT_KEY}


def _defaults(recipe: Recipe) -> dict[str, Any]:
    """The defaults of the recipe's sections."""
    found: dict[str, Any] = {}
    for name in type(recipe).model_fields:
        section = getattr(recipe, name)
        fields = type(section).model_fields if hasattr(type(section), "model_fields") else {}
        values = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
        found[name] = {key: _plain(values[key]) for key, field in fields.items() if not field.is_required()}
    return found


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of nested settings."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _marked(config: str, changed: set[str]) -> list[tuple[str, bool]]:
    """The lines of a config, each with whether its key differs from the default."""
    lines, path = [], list[tuple[int, str]]()
    for line in config.split("\n")[: -1 if config.endswith("\n") else None]:
        indent, text = len(line) - len(line.lstrip(" ")), line.strip()
        if text and not text.startswith(("#", "-")) and ":" in text:
            path = [(depth, key) for depth, key in path if depth < indent] + [(indent, text.partition(":")[0])]
        key = ".".join(key for _, key in path)
        is_value = bool(text) and not text.startswith("#") and not text.endswith(":")
        lines.append((line, (is_value and key in changed) or (text.endswith(":") and key in changed)))
    return lines


def reproduction(record: RunRecord) -> list[Part]:
    """The commands that do the same again, and what identifies the data and the recipe."""
    if record.run_dir is None or not record.config:
        return []
    versions = record.manifest.get("versions") or {}
    # Without the local part of a version such as 2.10.0+cu128, which no index has.
    pinned = [f"{package}=={versions[package].partition('+')[0]}" for package in PACKAGES if package in versions]
    lines = [f"pip install {' '.join(pinned)}"] if pinned else []
    lines.append(f"{shell_line('run', record.run_dir / CONFIG)} --run-dir=NEW_DIR")
    known = [f"The run was started in commit {commit}."] if (commit := commit_of(record)) else []
    known += [f"The data's fingerprint is {record.fingerprint}."] if record.fingerprint else []
    if record.recipe is not None:
        known.append(f"The recipe's hash is {learning_hash(record.recipe)}, the seed {record.recipe.train.seed}.")
    return [Code([(line, False) for line in lines]), *([Text([" ".join(known)])] if known else [])]
