"""What becomes of a pretrained head: its labels are the task's, in the head's order, or a new head is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.head_labels import are_named, in_head_order

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

DROPPED = "dropped_head."
"""Prefix under which the weights of a head that is not kept are read, so that they belong to nothing in the model."""
MOST_LABELS = 20
"""Labels that one line has room for."""


@dataclass(frozen=True)
class HeadChoice:
    """Whether the weights of the pretrained head are kept, and what the user has to know of that."""

    is_kept: bool
    note: str = ""


def follow_head(task: Task, facts: dict[str, Any], config: "PreTrainedConfig") -> tuple[dict[str, Any], str]:
    """The facts with their labels in the order of the pretrained head, if it has the same labels; and a note.

    `config` is the pretrained model's. The facts themselves and "" if they stay as they are.
    """
    head, names = _labels_of_head(config, task), task.head_labels(facts)
    ordered = in_head_order(names, head) if head and names else None
    if ordered is None or ordered == names:
        return facts, ""
    return task.with_head_labels(facts, ordered), f"the labels have the order of the model's head: {_listed(ordered)}"


def choose_head(recipe: Recipe, task: Task, config: "PreTrainedConfig") -> HeadChoice:
    """Decides by model.head, the task's labels and those of the pretrained head; `config` is the pretrained model's.

    Raises DataError if model.head is keep and the pretrained model has no such head.
    """
    wanted = task.model_config()
    if recipe.model.from_scratch or "num_labels" not in wanted:
        return HeadChoice(is_kept=True)
    names = [*wanted.get("id2label", {}).values()]
    head = _labels_of_head(config, task)
    key, path = recipe.model.head, recipe.model.path
    if head is None:
        if key == "keep":
            found = " ".join(config.architectures or ()) or f"a {config.model_type} model"
            raise DataError(f"model.head: keep, but {path} ({found}) has no head for this task; set it to auto or new")
        return HeadChoice(is_kept=False)
    fits = len(head) == wanted["num_labels"] and (
        not names or not are_named(head) or in_head_order(names, head) is not None
    )
    pretrained, ours = _described(head), _described(names) if names else "a number"
    if not fits:
        if key == "keep":
            raise DataError(
                f"model.head: keep, but the head of {path} has {pretrained}, and the task has {ours}; set it to new, or "
                "give the rows the labels of the head"
            )
        note = f"model.head: the pretrained head has {pretrained}, and the task has {ours}: a new head is drawn"
        return HeadChoice(is_kept=False, note=note)
    if key == "new":
        note = f"model.head: new: the pretrained head ({pretrained}) is dropped, and a new one is drawn"
        return HeadChoice(is_kept=False, note=note)
    if names and in_head_order(names, head) is None:
        note = (
            f"model.head: the pretrained head does not name its {len(head)} labels; they are taken as "
            f"{_listed(names)}, in this order (model.head: new draws a new head)"
        )
        return HeadChoice(is_kept=True, note=note)
    return HeadChoice(is_kept=True)


def renamed_head(config: "PreTrainedConfig", task: Task) -> dict[str, str]:
    """The key_mapping of from_pretrained by which no weight of the checkpoint's head gets into the model.

    A checkpoint of another task may have a head of the same name, such as `classifier`.
    """
    import torch
    import transformers

    named = next((name for name in config.architectures or () if name.endswith("Classification")), None)
    if named is None and config.architectures:
        return {}  # a pretrained model without a head, or with one for texts
    auto_model: Any = getattr(transformers, task.auto_model)
    model_class = getattr(transformers, named or "", None) or auto_model._model_mapping[type(config)]
    with torch.device("meta"):
        model = model_class(config)
    return {rf"^{name}\.": f"{DROPPED}{name}." for name in own_heads(model)}


def own_heads(model: "PreTrainedModel") -> list[str]:
    """Names of the modules with weights beside the pretrained base model."""
    return [name for name, child in model.named_children() if name != model.base_model_prefix and _has_weights(child)]


def _has_weights(module: "nn.Module") -> bool:
    return next(module.parameters(), None) is not None


def _labels_of_head(config: "PreTrainedConfig", task: Task) -> list[str] | None:
    """The labels of the head that the checkpoint has for this task, in their order; None if it has none."""
    labels: Mapping[int, str] = getattr(config, "id2label", None) or {}
    names = [str(labels[number]) for number in sorted(labels)]
    if config.architectures is None:
        return names if names and are_named(names) else None
    kind = task.auto_model.removeprefix("AutoModel")
    is_same_kind = kind.endswith("Classification") and any(name.endswith(kind) for name in config.architectures)
    return names if is_same_kind and names else None


def _described(labels: Sequence[str]) -> str:
    one_or_more = f"{len(labels)} label{'s' if len(labels) != 1 else ''}"
    return f"{one_or_more} ({_listed(labels)})" if are_named(labels) else f"{one_or_more} without names"


def _listed(labels: Sequence[str]) -> str:
    more = [f"and {len(labels) - MOST_LABELS} more"] if len(labels) > MOST_LABELS else []
    return ", ".join([*labels[:MOST_LABELS], *more])
