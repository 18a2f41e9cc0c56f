"""How a recipe is read: one file, then overrides in order; all faults in one error, each with the line it is on.

Torch is not imported, and the file system is read only at the paths that a recipe names.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from shardtune.errors import ConfigError
from shardtune.recipe.explain import Fault, dotted, explain, sections_in, shown
from shardtune.recipe.paths import _near, path_faults, with_absolute_paths
from shardtune.recipe.schema import ADDED_LATER, LEARNING_SECTIONS, NOT_LEARNED, Recipe
from shardtune.recipe.yaml_lines import KeyPath, YamlError, read_yaml, write_yaml
from shardtune.redaction import redact, redactor, secret_values
from shardtune.rows.source_files import HUB


def load_recipe(path: Path, overrides: Sequence[str] = (), *, checks_paths: bool = True) -> Recipe:
    """Return the recipe of the file with the overrides (`optim.lr=2e-5`) applied and local paths made absolute.

    Raises one ConfigError with a line for each fault in the file, the overrides and, with `checks_paths`, the paths
    that they name.
    """
    draft = draft_recipe(read_yaml_file(path), overrides, name=str(path))
    folder = Path.cwd()
    recipe, faults = _validated(draft)
    faults += _secrets(draft.values)
    faults += _missing_paths(draft.values, folder, path.absolute().parent) if checks_paths else []
    if recipe is None or faults or draft.faults:
        raise ConfigError(_report(draft, faults))
    return with_absolute_paths(recipe, folder)


def _secrets(values: Mapping[str, Any]) -> list[Fault]:
    """The faults of values that hold a secret: a recipe is copied into the run directory, and to where runs report."""
    return [
        Fault(
            key_path,
            f"looks like {what}; a recipe is copied into files and reports. Remove it here, and put it into the "
            "environment of the run, such as HF_TOKEN or WANDB_API_KEY, or into ~/.netrc",
        )
        for key_path, what in secret_values(values, redactor())
    ]


def _missing_paths(values: Mapping[str, Any], folder: Path, recipe_folder: Path) -> list[Fault]:
    """The faults of paths, which start from `folder`; they name a path that exists beside the recipe."""
    faults = path_faults(values, folder)
    recipe_folder = recipe_folder.resolve()
    if not faults or recipe_folder == folder:
        return faults
    faults_there = {fault.key_path for fault in path_faults(values, recipe_folder)}

    def with_hint(fault: Fault) -> Fault:
        if fault.key_path in faults_there:
            return fault
        beside = recipe_folder / str(_value_at(values, fault.key_path)).removeprefix(HUB)
        hint = f"; it lies beside the recipe, as {beside}; paths start from the working directory: give that path"
        return fault._replace(what=f"{fault.what}{hint}, or run this in {recipe_folder}")

    return [with_hint(fault) for fault in faults]


def _value_at(values: Any, key_path: KeyPath) -> Any:
    for step in key_path:
        values = values[step]
    return values


def parse_recipe(text: str, overrides: Sequence[str] = (), *, name: str = "recipe") -> Recipe:
    """Return the recipe in a text, as load_recipe does, but without the file system: paths stay as given and are not
    checked."""
    draft = draft_recipe(text, overrides, name=name)
    recipe, faults = _validated(draft)
    faults += _secrets(draft.values)
    if recipe is None or faults or draft.faults:
        raise ConfigError(_report(draft, faults))
    return recipe


def machine_recipe(overrides: Sequence[str]) -> Recipe:
    """Return a recipe with only the `job` section set, for commands that check machines and train nothing.

    Raises ConfigError if an override is not a key of job, or has an illegal value.
    """
    if others := [override for override in overrides if not override.startswith("job.")]:
        raise ConfigError(f"{others[0]}: there is no recipe here; only keys of job apply, such as job.nodes=2")
    placeholders = {"task": {"kind": "classification"}, "model": {"path": "./none"}, "data": {"train": "./none"}}
    return with_absolute_paths(parse_recipe(json.dumps(placeholders), overrides), Path.cwd())


def render_recipe(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as YAML that reads back to an equal recipe."""
    return "# Resolved by shardtune: every value in effect, defaults included.\n" + write_yaml(
        recipe.model_dump(mode="json")
    )


def learning_hash(recipe: Recipe) -> str:
    """Eight hex digits that depend on what is learned, and not on the machine or the reports.

    Keys of ADDED_LATER change nothing as long as they have their defaults: the run directories of earlier versions,
    which are named after this, are found again.
    """
    dumped = recipe.model_dump(mode="json", include=set(LEARNING_SECTIONS))
    dumped["data"]["length_window"] = recipe.length_window
    learned = {
        section: {key: value for key, value in keys.items() if _is_hashed(recipe, section, key)}
        for section, keys in dumped.items()
    }
    canonical = json.dumps({k: v for k, v in learned.items() if v}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def _is_hashed(recipe: Recipe, section: str, key: str) -> bool:
    name, values = f"{section}.{key}", getattr(recipe, section)
    if name in ADDED_LATER and getattr(values, key) == type(values).model_fields[key].get_default():
        return False
    return name not in NOT_LEARNED


def differences(a: Recipe, b: Recipe) -> list[str]:
    """A line for each key that differs, such as `optim.lr: 2e-05 -> 3e-05`."""
    old, new = dict(_leaves(a.model_dump(mode="json"))), dict(_leaves(b.model_dump(mode="json")))
    return [
        f"{key}: {old.get(key, '(unset)')} -> {new.get(key, '(unset)')}"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]


def learned_differences(a: Recipe, b: Recipe) -> list[str]:
    """The lines of `differences` for keys that change what is learned."""
    lines = {line: line.partition(":")[0] for line in differences(a, b)}
    return [
        line for line, key in lines.items() if key.partition(".")[0] in LEARNING_SECTIONS and key not in NOT_LEARNED
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)


class SourceLine(NamedTuple):
    """Where a value was given: a line of the file, or an override."""

    order: int
    label: str
    key: KeyPath = ()
    """The dotted key that an override names; () for a line of the file."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The values of the file and the overrides together, and where each was given; not yet validated against the
    schema."""

    name: str
    values: Mapping[str, Any]
    places: Mapping[KeyPath, SourceLine]
    faults: tuple[tuple[SourceLine, str], ...]

    def place(self, key_path: KeyPath) -> SourceLine:
        """The place of the value, or of the nearest section around it."""
        for length in range(len(key_path), 0, -1):
            if key_path[:length] in self.places:
                return self.places[key_path[:length]]
        return SourceLine(0, self.name)


def draft_recipe(text: str, overrides: Sequence[str], *, name: str) -> Draft:
    """Read the values without validating them. Raises ConfigError only if the text is not a YAML mapping."""
    try:
        document = read_yaml(text.removeprefix("\ufeff"))
    except YamlError as error:
        raise ConfigError(f"{name}:{error.line}: {error.what}") from None
    if document.value is None:
        raise ConfigError(f"{name}: is empty; a recipe needs at least the sections {_required()}")
    if not isinstance(document.value, dict):
        raise ConfigError(f"{name}:1: expected sections such as {_required()}, got {shown(document.value)}")

    values: dict[str, Any] = document.value
    places = {key_path: SourceLine(line, f"{name}:{line}") for key_path, line in document.lines.items()}
    faults = [
        (SourceLine(last, f"{name}:{last}"), f"{dotted(key_path)}: already given on line {first}; keep one of them")
        for key_path, (first, last) in document.duplicates.items()
    ]
    for number, override in enumerate(overrides):
        place = SourceLine(_AFTER_FILE + number, f"override {_quoted(override)}")
        try:
            key_path, value = parse_override(override)
        except ConfigError as error:
            faults.append((place, str(error)))
        else:
            _put(values, places, key_path, value, place._replace(key=key_path))
    for section, field in Recipe.model_fields.items():
        if section in values and values[section] is None and sections_in(field.annotation):
            values[section] = {}  # all its keys are commented out
    return Draft(name, values, places, tuple(faults))


def parse_override(override: str) -> tuple[KeyPath, Any]:
    """`optim.lr=2e-5` -> (("optim", "lr"), 2e-05). The ConfigError says what is wrong, but does not name the
    override."""
    key, equals, text = override.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError("expected section.key=value, such as optim.lr=2e-5")
    if not text.strip():
        raise ConfigError("the value is missing; write null to unset the key")
    try:
        document = read_yaml(text)
    except YamlError as error:
        raise ConfigError(error.what) from None
    if document.duplicates:
        raise ConfigError(f"{dotted(next(iter(document.duplicates)))} is given twice; keep one of them")
    if document.has_comment_after:
        raise ConfigError("' #' starts a comment; add quotes inside those of the shell, as in key='\"a #b\"'")
    return tuple(key.split(".")), document.value


_AFTER_FILE = 10**9
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", re.ASCII)


def _put(
    values: dict[str, Any], places: dict[KeyPath, SourceLine], key_path: KeyPath, value: Any, place: SourceLine
) -> None:
    """Replace the value at key_path as a whole; a mapping replaces the mapping that was there."""
    inner = values
    for number, key in enumerate(key_path[:-1], start=1):
        if not isinstance(inner.get(str(key)), dict):
            inner[str(key)] = {}
            places[key_path[:number]] = place
        inner = inner[str(key)]
    inner[str(key_path[-1])] = value
    for known in [known for known in places if known[: len(key_path)] == key_path]:
        del places[known]
    places[key_path] = place


def _quoted(override: str) -> str:
    return f"'{override}'" if override.isprintable() else ascii(override)


def read_yaml_file(path: Path) -> str:
    """Return the text of a YAML file. Raises ConfigError if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None
    except FileNotFoundError:
        start = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise ConfigError(f"{path}: no such file{start}{_near(path)}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{_quoted(str(path))} cannot be read: {reason}") from None


def _required() -> str:
    return ", ".join(name for name, field in Recipe.model_fields.items() if field.is_required())


def _validated(draft: Draft) -> tuple[Recipe | None, list[Fault]]:
    try:
        # Via JSON, because pydantic in strict mode accepts a list for a tuple only there.
        return Recipe.model_validate_json(json.dumps(draft.values)), []
    except ValidationError as error:
        return None, explain(error, draft.values, Recipe)


def _report(draft: Draft, faults: Iterable[Fault]) -> str:
    placed = [(draft.place(fault.key_path), fault) for fault in faults]
    lines = [
        (place, fault.what if fault.key_path in ((), place.key) else f"{dotted(fault.key_path)}: {fault.what}")
        for place, fault in placed
    ]
    ordered = sorted([*draft.faults, *lines], key=lambda line: line[0].order)
    return redact("\n".join(dict.fromkeys(f"{place.label}: {what}" for place, what in ordered)))
