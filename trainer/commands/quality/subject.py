"""The model that is evaluated: of a run, exported by shardtune, or from elsewhere; and how rows are read for it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardtune.errors import CheckpointError, ConfigError
from shardtune.recipe.load import parse_override, parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CONFIG, EXPORT, FACTS
from shardtune.run_dir.micro_batch_budget import read_budget
from shardtune.trainer.checkpoint.base_model import read_base
from shardtune.trainer.commands.inference.exported_model import find_model, open_model, open_task
from shardtune.trainer.commands.quality import elsewhere
from shardtune.trainer.export.trained_task import TRAINED_TASK, read_task
from shardtune.trainer.model.lora import ADAPTER_CONFIG, is_adapter
from shardtune.trainer.tasks import TASKS, Task

if TYPE_CHECKING:
    import torch

BEST = "best"


@dataclass(frozen=True)
class Subject:
    """A model, and how rows are read for it."""

    given: Path
    """The run directory or the model folder, as the user wrote it."""
    recipe: Recipe
    folder: Path
    facts: Mapping[str, Any] | None
    """What the task knows of its training rows; None of a model from elsewhere, until its rows are read."""
    is_run: bool = False
    is_from_elsewhere: bool = False

    @property
    def micro_batch_tokens(self) -> int:
        """Those with which the run trained, which takes more memory than an evaluation."""
        tokens = self.recipe.train.micro_batch_tokens
        if tokens != "auto":
            return tokens
        kept = read_budget(self.given) if self.is_run else None
        return self.recipe.data.max_tokens if kept is None else kept.tokens

    def open_task(self, facts: Mapping[str, Any]) -> Task:
        """The task, as the model answers it. Raises DataError if the model is of another kind."""
        if self.is_from_elsewhere:
            return elsewhere.open_task(self.recipe, self.folder, facts)[0]
        return open_task(self.recipe, self.folder, facts)[0]

    def open_model(self, facts: Mapping[str, Any], device: "torch.device", *, is_split: bool) -> tuple[Task, Any, Any]:
        """The task, the model and its tokenizer; the model is on the device, or `is_split` over all GPUs.

        Raises CheckpointError or DataError if the weights cannot be read, or are not all there.
        """
        open_ = elsewhere.open_model if self.is_from_elsewhere else open_model
        return open_(self.recipe, self.folder, facts, device, is_split=is_split)


def find_subject(
    path: Path,
    *,
    model: str = BEST,
    kind: str | None = None,
    overrides: Sequence[str] = (),
    paths: Sequence[str] = (),
) -> Subject:
    """The model that a command line means by a run directory or a model folder.

    `kind` and `overrides` say what a folder from elsewhere does not tell, `paths` are those of the rows. Raises
    CheckpointError, ConfigError or DataError.
    """
    _refuse_other_keys(overrides, of_adapters=is_adapter(path))
    if kind is not None and kind not in TASKS:
        raise ConfigError(f"--task: unknown task {kind!r}; choose from {', '.join(TASKS)}")
    if (path / CONFIG).is_file():
        recipe, folder, facts = find_model(path, model, overrides)
        if kind not in (None, recipe.task.kind):
            raise ConfigError(
                f"--task: {path} has learned {recipe.task.kind}; to evaluate its model as {kind}, give the folder of "
                f"the model: {folder}"
            )
        return Subject(path, recipe, folder, facts, is_run=True)
    if not any((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        raise CheckpointError(f"{path}: neither a run directory (no {CONFIG}) nor a model folder (no config.json)")
    if model != BEST:
        raise ConfigError(f"--model chooses among the models of a run directory, but {path} is a model: remove it")
    known = _exported(path, overrides)
    if known is not None and kind in (None, known.recipe.task.kind):
        return known
    return Subject(path, elsewhere.recipe_of(path, kind, overrides, paths), path, None, is_from_elsewhere=True)


def _exported(folder: Path, overrides: Sequence[str]) -> Subject | None:
    """The model of a folder that shardtune has exported; None of any other."""
    run_dir = folder.absolute().parent.parent
    if (kept := read_task(folder)) is None:
        if folder.absolute().parent.name != EXPORT or not (run_dir / CONFIG).is_file():
            return None
        # An earlier version exported it, and its run directory is still around it.
        text, name = (run_dir / CONFIG).read_text(encoding="utf-8"), str(run_dir / CONFIG)
        facts = json.loads((run_dir / FACTS).read_text(encoding="utf-8"))
        return Subject(folder, parse_recipe(text, overrides, name=name), folder, facts)
    base = read_base(folder) if is_adapter(folder) else {"path": str(folder), "revision": None}
    place = {"path": base["path"], "revision": base["revision"]}
    values = {**kept.recipe, "model": {**kept.recipe["model"], **place}}
    recipe = parse_recipe(json.dumps(values), overrides, name=str(folder / TRAINED_TASK))
    return Subject(folder, recipe, folder, kept.facts)


def _refuse_other_keys(overrides: Sequence[str], *, of_adapters: bool) -> None:
    """Raises ConfigError for an override that an evaluation does not read."""
    for override in overrides:
        try:
            key = ".".join(map(str, parse_override(override)[0]))
        except ConfigError as error:
            raise ConfigError(f"{override}: {error}") from None
        is_read = key.startswith("task.") and key != "task.kind"
        is_read |= key.startswith("data.") and key.split(".")[1] not in ("train", "dev", "test")
        is_read |= key == "train.micro_batch_tokens" or (of_adapters and key in ("model.path", "model.revision"))
        if not is_read:
            hint = "; the task is --task=KIND" if key in ("task", "task.kind") else ""
            raise ConfigError(
                f"{override}: an evaluation reads keys of task and data, such as data.columns, and "
                f"train.micro_batch_tokens; of adapters also model.path, the base model{hint}"
            )
