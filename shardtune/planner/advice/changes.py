"""What a recipe could change that also changes what is learned, and what that would bring. Only told, never chosen."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from shardtune.planner.advice.search import Candidate, Question, Searched, search
from shardtune.planner.job import Cluster
from shardtune.recipe.model.lora import LoraConfig
from shardtune.recipe.schema import Recipe


@dataclass(frozen=True)
class Change:
    """A change of the recipe, and the settings with it."""

    name: str
    """`LoRA`, `QLoRA` or `bf16 states`."""
    overrides: str
    searched: Searched

    def gain(self, best: Candidate | None) -> str:
        """How much faster the change is than the best without it: `, 1.3 times as fast`; empty if there is none."""
        ours = self.searched.best
        return f", {best.step_s / ours.step_s:.1f} times as fast" if best is not None and ours is not None else ""


def changes(question: Question, cluster: Cluster) -> Iterator[Change]:
    """The changes that the recipe has not made. Raises ConfigError if the GPU cannot do what it asks for."""
    recipe = question.recipe
    for name, overrides, changed in _changed(recipe):
        yield Change(name, overrides, search(replace(question, recipe=changed), cluster))


def _changed(recipe: Recipe) -> Iterator[tuple[str, str, Recipe]]:
    lora = recipe.model.lora
    if lora is None and not recipe.model.from_scratch:
        yield "LoRA", "model.lora={}", _with_model(recipe, lora=LoraConfig())
    if not recipe.model.from_scratch and not recipe.model.has_quantized_base:
        adapters = (lora or LoraConfig()).model_copy(update={"quantize_base": "nf4"})
        yield "QLoRA", "model.lora.quantize_base=nf4", _with_model(recipe, lora=adapters)
    if lora is None and recipe.optim.states == "fp32":
        optim = recipe.optim.model_copy(update={"states": "bf16"})
        yield "bf16 states", "optim.states=bf16", recipe.model_copy(update={"optim": optim})


def _with_model(recipe: Recipe, **keys: Any) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=keys)})
