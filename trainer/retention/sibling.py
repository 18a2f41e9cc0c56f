"""The model in training below another head: the same modules, and the head of another model, which is never trained."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model.load import load_weights
from shardtune.trainer.model.pretrained import load_model_config
from shardtune.trainer.model.target_loss import keep_target_loss
from shardtune.trainer.tasks import Task

MOST_NAMES = 5
"""Weights that a message names."""


@dataclass(frozen=True)
class Sibling:
    """The model in training below another head."""

    model: Any
    divided: "tuple[_Tie, ...]"
    """The weights from below that its head uses and that ZeRO-3 has divided: no hook gathers them for the head."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Collective: the head has these weights whole, as they are now, for as long as it is in use."""
        for tie in self.divided:
            tie.gather()
        try:
            yield
        finally:
            for tie in self.divided:
                tie.drop()


def open_sibling(model: Any, recipe: Recipe, task: Task, device: torch.device) -> Sibling:
    """A model with the head of the recipe's model, for this task, on top of all that `model` has below its own head.

    What is below is shared: it is trained with `model`, and each of its weights is in memory once. Where the head uses
    a weight from below (the embeddings, in language models), it uses the one in training. The other weights of the head
    stay as they were. Raises DataError if the recipe's model has no weights for the head, or the two classes have
    nothing in common below theirs.
    """
    whole, missing = load_weights(
        recipe, task, load_model_config(recipe, task), model.config._attn_implementation, device
    )
    prefix = whole.base_model_prefix
    own: Any = getattr(whole, prefix, None)
    shared: Any = getattr(model, prefix, None)
    if own is None or type(own) is not type(shared):
        raise DataError(
            f"{type(whole).__name__} and the model in training, {type(model).__name__}, have no part in common that "
            "transformers tells apart from their heads"
        )
    lacking = [name for name, child in own.named_children() if getattr(shared, name, None) is None]
    _refuse_missing(recipe, missing, prefix, lacking)
    ties = [*_ties(whole, own, shared)]
    added = {name: own.get_submodule(name) for name in lacking}
    delattr(whole, prefix)  # so that only what is kept goes to the device
    for part in (whole, *added.values()):
        part.to(device).requires_grad_(False).train(False)
    setattr(whole, prefix, _with_children(shared, added) if added else shared)
    divided = tuple(tie for tie in ties if tie.follow())
    if task.wants_target_loss:
        keep_target_loss(whole)
    return Sibling(whole, divided)


@dataclass(frozen=True)
class _Tie:
    """A weight of a head that is one of those below it."""

    owner: nn.Module
    attribute: str
    weight: Any
    """The one in training."""

    def follow(self) -> bool:
        """Lets the head use the weight in training; returns whether ZeRO-3 has divided that, so that it is gathered."""
        if hasattr(self.weight, "ds_status"):
            self.drop()
            return True
        self.owner._parameters[self.attribute] = self.weight
        return False

    def gather(self) -> None:
        """Collective: gives the head a copy of the whole weight."""
        # Not while it computes: by then DeepSpeed (0.19.8) may have begun to fetch the weight for a later pass.
        is_divided = self.weight.ds_status.name == "NOT_AVAILABLE"
        if is_divided:
            self.weight.all_gather([self.weight])
        self.owner._parameters[self.attribute] = nn.Parameter(self.weight.detach().clone(), requires_grad=False)
        if is_divided:
            self.weight.partition([self.weight])

    def drop(self) -> None:
        """Leaves the head without the weight."""
        empty = self.weight.new_empty(0)
        self.owner._parameters[self.attribute] = nn.Parameter(empty, requires_grad=False)


def _ties(whole: nn.Module, own: nn.Module, shared: nn.Module) -> Iterator[_Tie]:
    """The weights of the head that are also below it, where the model in training has one of that name and shape there:
    its embeddings may have grown."""
    names = {id(weight): name for name, weight in own.named_parameters()}
    below = {id(module) for module in own.modules()}
    trained: dict[str, Any] = dict(shared.named_parameters())
    for module in whole.modules():
        if id(module) in below:
            continue
        for attribute, weight in module.named_parameters(recurse=False):
            of_trained = trained.get(names.get(id(weight), ""))
            if of_trained is not None and getattr(of_trained, "ds_shape", of_trained.shape) == weight.shape:
                yield _Tie(module, attribute, of_trained)


def _with_children(module: nn.Module, added: dict[str, nn.Module]) -> Any:
    """The module with further children, such as a pooler; all it has is shared with the original."""
    copy = object.__new__(type(module))
    copy.__dict__.update(vars(module))
    for name in added:
        copy.__dict__.pop(name, None)  # an attribute that is None would hide the child
    copy.__dict__["_modules"] = {**module._modules, **added}
    return copy


def _refuse_missing(recipe: Recipe, missing: Collection[str], prefix: str, lacking: Collection[str]) -> None:
    """Raises DataError if weights are missing that are not below the head."""
    needed = tuple(f"{prefix}.{name}." for name in lacking)
    names = sorted(name for name in missing if not name.startswith(f"{prefix}.") or name.startswith(needed))
    if names:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        raise DataError(
            f"neither the model in training nor {recipe.model.path} has a head for {recipe.task.kind}: there are no "
            f"weights for {', '.join(names[:MOST_NAMES])}{more}; name a model that has them by `model`"
        )
