"""The folder of a blended model: the files of the tuned one with other weights, and a card that says so."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from shardtune.errors import CheckpointError
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CHECKPOINTS
from shardtune.trainer.checkpoint.base_model import BASE, changes, identify, read_base, revision_of
from shardtune.trainer.checkpoint.manifest import Manifest, with_manifest
from shardtune.trainer.export.blended.base_tensors import BaseModel, open_base_model
from shardtune.trainer.export.blended.weights import Blend, TunedWeights
from shardtune.trainer.export.export import empty_model, publish
from shardtune.trainer.export.model_card import CURVES, render_card
from shardtune.trainer.model.load import DTYPES, EVALUATION
from shardtune.trainer.model.lora import is_adapter
from shardtune.trainer.tasks import Task

CARD = "README.md"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BlendedModels:
    """The models between the base model of a run and its exported one."""

    run_dir: Path
    recipe: Recipe
    tuned: Path
    """The exported model, or its adapters."""
    task: Task
    tokenizer: Any
    config: Any
    """Of the tuned model."""
    say: Say

    @cached_property
    def base(self) -> BaseModel | None:
        """None if nothing has to be read from it, because all that was trained are adapters."""
        names = self._weights.names
        if not names:
            return None
        return open_base_model(self.recipe, self.task, self.tokenizer, self.config, names, self.say)

    @cached_property
    def kept(self) -> list[str]:
        """What has no counterpart in the base, and stays as it was tuned: names of weights, and of added tokens."""
        if self.base is None:
            return []
        tokens = [f"the embedding of {self.tokenizer.convert_ids_to_tokens(token)}" for token in self.base.new_tokens]
        return [*(name for name in self._weights.names if name in self.base.new), *tokens]

    def write(self, folder: Path, alpha: float) -> None:
        """Writes the model at this alpha into a new folder, without a card. Raises OSError or CheckpointError."""
        shutil.rmtree(folder, ignore_errors=True)
        ignored = shutil.ignore_patterns("*.safetensors", CARD, CURVES, EVALUATION)
        shutil.copytree(self.tuned, folder, ignore=ignored, copy_function=shutil.copyfile)
        self._weights.write(folder, Blend(alpha, self.base))

    def export(self, draft: Path, folder: Path, *, dev: Mapping[str, Any], test: Mapping[str, Any], note: str) -> None:
        """Makes a folder that `write` has written an export with the metrics of its model, and a card with this note.

        Replaces an older one. Raises OSError, or CheckpointError if the manifest of the run's best checkpoint is gone.
        """
        manifest = replace(self.manifest, dev_metrics=dev or None)
        if dev:
            (draft / EVALUATION).write_text(json.dumps(dev, ensure_ascii=False, indent=1), encoding="utf-8")
        card = render_card(
            self.run_dir,
            manifest,
            self.recipe,
            empty_model(self.run_dir, DTYPES["fp32"]),
            results={"test": test} if test else None,
            has_curves=False,
            is_adapter=is_adapter(self.tuned),
            blend=note,
        )
        (draft / CARD).write_text(card, encoding="utf-8")
        publish(draft, folder)

    @cached_property
    def manifest(self) -> Manifest:
        """That of the checkpoint that was exported. Raises CheckpointError if it is gone."""
        results = json.loads((self.run_dir / "results.json").read_text(encoding="utf-8"))
        path = self.run_dir / CHECKPOINTS / f"step-{results['best_step']}"
        try:
            return with_manifest(path).manifest
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}; the card of a blended model needs its manifest.json") from None

    @cached_property
    def _weights(self) -> TunedWeights:
        return TunedWeights(self.tuned)


def refuse_changed_base(run_dir: Path, tuned: Path, recipe: Recipe, say: Say) -> None:
    """Raises CheckpointError if the base model is not the one that the run was trained from.

    `say` is called if that is not known, because an earlier version of shardtune trained the run.
    """
    if recipe.model.from_scratch:
        raise CheckpointError(f"{run_dir} was trained from scratch (model.from_scratch): it has no base to blend with")
    folder = tuned if is_adapter(tuned) else run_dir
    current = identify(recipe)
    if not (folder / BASE).is_file():
        say(f"{run_dir} has no {BASE}: whether {recipe.model.path} has changed since the training is not known")
        return
    saved = read_base(folder)
    if changed := changes(saved, current):
        raise CheckpointError(
            f"{recipe.model.path}: {changed} since {run_dir} was trained from it, so what lies between them means "
            f"nothing; restore the base model{revision_of(saved)}"
        )
