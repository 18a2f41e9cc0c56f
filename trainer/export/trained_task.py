"""What an exported folder tells of the task that its model has learned, so that it can be evaluated without its run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.errors import CheckpointError
from shardtune.recipe.schema import Recipe
from shardtune.rows.source_files import is_hub
from shardtune.run_dir.files import FACTS

TRAINED_TASK = "shardtune.json"
SECTIONS: Mapping[str, Any] = {
    "task": True,
    "model": True,
    "data": True,
    "train": {"micro_batch_tokens"},
    "engine": {"precision"},
}
"""The keys of a recipe that say how rows are read and what a model answers."""


@dataclass(frozen=True)
class TrainedTask:
    """The task of a model, as its run knows it."""

    recipe: dict[str, Any]
    """SECTIONS of the recipe; of files and folders only the names."""
    facts: dict[str, Any]
    """What the task derived from the training rows."""


def keep_task(folder: Path, recipe: Recipe, run_dir: Path) -> None:
    """Writes TRAINED_TASK into an exported folder; names no folder of this machine. Raises OSError."""
    facts = json.loads((run_dir / FACTS).read_text(encoding="utf-8")) if (run_dir / FACTS).is_file() else {}
    kept = {"recipe": _named_only(recipe.model_dump(mode="json", include=dict(SECTIONS))), "facts": facts}
    (folder / TRAINED_TASK).write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")


def read_task(folder: Path) -> TrainedTask | None:
    """What keep_task has written; None if the folder was not exported by shardtune. Raises CheckpointError."""
    path = folder / TRAINED_TASK
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return TrainedTask(dict(kept["recipe"]), dict(kept["facts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}); export the model again") from error


def _named_only(values: dict[str, Any]) -> dict[str, Any]:
    """The sections with the last part of each path of this machine."""
    data = {key: value for key, value in values["data"].items() if key != "cache_dir"}
    data |= {split: _sources_named_only(data[split]) for split in ("train", "dev", "test")}
    return {**values, "data": data, "model": {**values["model"], "path": _name(values["model"]["path"])}}


def _sources_named_only(value: Any) -> Any:
    if isinstance(value, str):
        return _name(value)
    if isinstance(value, list):
        return [_sources_named_only(source) for source in value]
    return value | {"path": _name(value["path"])} if isinstance(value, dict) and "path" in value else value


def _name(path: str) -> str:
    return path if is_hub(path) or not path.startswith(("/", "~")) else Path(path).name
