"""What identifies prepared data: the content of the files, the tokenizer, and the options that decide the examples.

Not where they lie: data that were moved are the same data.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from shardtune.home import expand_home
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.run import DataIdentity
from shardtune.trainer.data.prepare.fingerprints import Fingerprints
from shardtune.trainer.data.prepare.sources import STREAM_ORDER, sources_content
from shardtune.trainer.model.tokenizer_files import tokenizer_files

FORMAT = 8
"""Incremented whenever the same input would be written differently, so that older folders are not read."""
EARLIER = 7
"""The format whose runs are still resumed. Their data are prepared anew, to the same examples."""
ADDED: dict[str, dict[str, Any]] = {
    "chat": {"roles": {}, "turns": "auto", "thoughts": None, "system_turn": None},
    "token_classification": {"tag_names": None},
}
"""Options of tasks that the earlier format did not have, and the values that mean what it did."""


def fingerprint(recipe: Recipe) -> str:
    """A digest of all that the prepared data depend on, of 16 hexadecimal digits."""
    return data_identity(recipe).fingerprint


def data_identity(recipe: Recipe) -> DataIdentity:
    """What the prepared data of a recipe depend on. Raises DataError with every path that matches nothing."""
    known = Fingerprints(expand_home(recipe.data.cache_dir) / "fingerprints")
    sources = sources_content(recipe, known)
    tokenizer = _tokenizer(recipe, known)
    options: dict[str, Any] = {"task": recipe.task.model_dump(), "max_tokens": recipe.data.max_tokens}
    earlier = _earlier_options(recipe, options)
    if recipe.data.special_tokens_in_text != "refuse":
        options["special_tokens_in_text"] = recipe.data.special_tokens_in_text
    parts = {key if key == STREAM_ORDER else f"data.{key}": value for key, value in sources.items()}
    parts |= {f"task.{key}": value for key, value in options["task"].items()}
    parts |= {f"data.{key}": value for key, value in options.items() if key != "task"}
    parts["the tokenizer (model.path)"] = tokenizer
    return DataIdentity(
        _fingerprint(FORMAT, sources, tokenizer, options),
        {name: hashlib.sha256(_canonical(value)).hexdigest()[:16] for name, value in parts.items()},
        None if earlier is None else _fingerprint(EARLIER, sources, tokenizer, earlier),
    )


def _fingerprint(format_: int, sources: dict[str, Any], tokenizer: str, options: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    digest.update(f"{hashlib.sha256(_canonical(sources)).hexdigest()}\n{tokenizer}".encode())
    digest.update(_canonical([format_, options]))
    return digest.hexdigest()[:16]


def _earlier_options(recipe: Recipe, options: dict[str, Any]) -> dict[str, Any] | None:
    """The options as the earlier format has them; None if it could not have been meant."""
    task = dict(options["task"])
    if any(task.pop(name) != value for name, value in ADDED.get(recipe.task.kind, {}).items()):
        return None
    if recipe.task.kind == "classification" and task["label_separator"] is None:
        task["label_separator"] = ","
    return {**options, "task": task} if recipe.data.special_tokens_in_text == "refuse" else None


def _tokenizer(recipe: Recipe, known: Fingerprints) -> str:
    """What the tokens of a text depend on: a line for the hub's model, or a line for each file of a folder."""
    folder = Path(recipe.model.path)
    files = tokenizer_files(folder) if folder.is_dir() else []
    lines = [f"{recipe.model.path if not files else ''}@{recipe.model.revision}"]
    return "".join(f"{line}\n" for line in [*lines, *(f"{path.name}:{known.of(path)}" for path in files)])


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
