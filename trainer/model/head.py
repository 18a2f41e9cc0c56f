"""What becomes of a pretrained head: its labels are the task's, in the head's order, or a new head is drawn."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.head_labels import are_named, in_head_order

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

MOST_LABELS = 20
"""Labels that one line has room for."""


@dataclass(frozen=True)
class HeadChoice:
    """What becomes of the head that the checkpoint has."""

    is_replaced: bool
    """Whether a new head takes its place. False also if it has none, so that one is drawn for lack of weights."""
    note: str = ""
    """What the user has to know of it."""


def follow_head(task: Task, facts: dict[str, Any], config: "PreTrainedConfig") -> tuple[dict[str, Any], str]:
    """The facts with their labels in the order of the pretrained head, if it has the same labels; and a note.

    `config` is the pretrained model's. The facts themselves and "" if they stay as they are.
    """
    head, names = labels_of_head(config, task.auto_model), task.head_labels(facts)
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
        return HeadChoice(is_replaced=False)
    head, names = labels_of_head(config, task.auto_model), [*wanted.get("id2label", {}).values()]
    fits = head is not None and len(head) == wanted["num_labels"] and _are_of(names, head)
    if recipe.model.head == "keep" and not fits:
        _refuse_new_head(recipe, config, head, names)
    if head is None:
        # A checkpoint of another task may have a head of the same name, such as `classifier`.
        return HeadChoice(is_replaced=_has_any_head(config))
    if not fits:
        note = f"the pretrained head has {_described(head)}, and the task has {_described(names)}: a new head is drawn"
        return HeadChoice(is_replaced=True, note=f"model.head: {note}")
    if recipe.model.head == "new":
        note = f"the pretrained head ({_described(head)}) is dropped, and a new one is drawn"
        return HeadChoice(is_replaced=True, note=f"model.head: new: {note}")
    if names and in_head_order(names, head) is None:
        note = f"the pretrained head does not name its {len(head)} labels; they are taken as {_listed(names)}"
        return HeadChoice(is_replaced=False, note=f"model.head: {note}, in this order (model.head=new draws a new one)")
    return HeadChoice(is_replaced=False)


def _refuse_new_head(
    recipe: Recipe, config: "PreTrainedConfig", head: Sequence[str] | None, names: Sequence[str]
) -> NoReturn:
    """Raises the DataError for a pretrained head, if there is any, that cannot be kept for these labels."""
    path = recipe.model.path
    if head is None:
        found = " ".join(config.architectures or ()) or f"a {config.model_type} model"
        raise DataError(f"model.head: keep, but {path} ({found}) has no head for this task; set it to auto or new")
    raise DataError(
        f"model.head: keep, but the head of {path} has {_described(head)}, and the task has {_described(names)}; set "
        "it to new, or give the rows the labels of the head"
    )


def draw_head(model: Any, config: "PreTrainedConfig", *, seed: int) -> None:
    """Puts a new head for the labels of this config in the place of the model's; the same on every rank and stage."""
    import torch

    with torch.device("meta"):
        fresh: Any = type(model)(config)
    torch.manual_seed(seed)
    for name in own_heads(model):
        head = fresh.get_submodule(name).to_empty(device=model.device).to(model.dtype)
        with torch.no_grad():
            for module in head.modules():
                fresh._init_weights(module)
        setattr(model, name, head)
    set_labels(model.config, config)
    model.num_labels = config.num_labels


def set_labels(config: "PreTrainedConfig", source: "PreTrainedConfig") -> None:
    """Gives a config the labels of another."""
    config.id2label, config.label2id = copy.copy(source.id2label), copy.copy(source.label2id)


def own_heads(model: "PreTrainedModel") -> list[str]:
    """Names of the modules with weights beside the pretrained base model."""
    return [name for name, child in model.named_children() if name != model.base_model_prefix and _has_weights(child)]


def _has_weights(module: "nn.Module") -> bool:
    return next(module.parameters(), None) is not None


def labels_of_head(config: "PreTrainedConfig", auto_model: str) -> list[str] | None:
    """The labels of the head that the checkpoint has for this Auto class, in their order; None if it has none."""
    labels: Mapping[int, str] = getattr(config, "id2label", None) or {}
    names = [str(labels[number]) for number in sorted(labels)]
    if config.architectures is None:
        return names if names and are_named(names) else None
    kind = auto_model.removeprefix("AutoModel")
    is_same_kind = kind.endswith("Classification") and any(name.endswith(kind) for name in config.architectures)
    return names if is_same_kind and names else None


def _has_any_head(config: "PreTrainedConfig") -> bool:
    return config.architectures is None or any(name.endswith("Classification") for name in config.architectures)


def _are_of(names: Sequence[str], head: Sequence[str]) -> bool:
    """Whether labels of these names, or numbers if there are no names, may be those of a head of the same size."""
    return not names or not are_named(head) or in_head_order(names, head) is not None


def _described(labels: Sequence[str]) -> str:
    if not labels:
        return "a number"
    one_or_more = f"{len(labels)} label{'s' if len(labels) != 1 else ''}"
    return f"{one_or_more} ({_listed(labels)})" if are_named(labels) else f"{one_or_more} without names"


def _listed(labels: Sequence[str]) -> str:
    more = [f"and {len(labels) - MOST_LABELS} more"] if len(labels) > MOST_LABELS else []
    return ", ".join([*labels[:MOST_LABELS], *more])
