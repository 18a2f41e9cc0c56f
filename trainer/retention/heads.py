"""Which model answers the rows of a retention set: the one in training, or the model below its head with another head.

Decided before any rank starts, from configs and labels; no weights are read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardtune.errors import DataError
from shardtune.recipe.model.config import ModelConfig
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.retention import RetentionSet
from shardtune.run_dir.files import CONFIG, EXPORT
from shardtune.section import TaskOptions
from shardtune.trainer.model.head import labels_of_head
from shardtune.trainer.model.pretrained import first_number, load_model_config, load_tokenizer
from shardtune.trainer.tasks import TASKS, Task, task_of
from shardtune.trainer.tasks.head_labels import are_named, in_head_order
from shardtune.trainer.tasks.task import GeneratingTask

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BEST = "best"
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers")
"""The numbers of a config by which two models below their heads are of one size."""

PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""The problems of classification, as configs of transformers name them."""


@dataclass(frozen=True)
class Answerer:
    """Who may answer the rows of a set."""

    head: str | None
    """The model folder, or hub id, that has the head; None for the model in training as it is."""
    task: TaskOptions
    """The options of the set, with the labels of the head if these have names."""
    labels: list[str] | None = None
    """The labels of the head; None for a task without labels."""

    def refuse_other_labels(self, labels: list[str]) -> None:
        """Raises DataError unless these, in their order, are the labels of the head."""
        head = self.labels
        if head is None:
            return
        fits_by_number = not are_named(head) and len(labels) in (0, len(head))
        if not fits_by_number and in_head_order(labels, head) != labels:
            raise DataError(f"its rows have the labels {_listed(labels)}, and the head has {_listed(head)}")


@dataclass(frozen=True)
class Trained:
    """The model in training, as far as its config and its task tell."""

    recipe: Recipe
    config: "PreTrainedConfig"
    task: Task
    labels: list[str]
    """Those of its head; empty if it has none, or if they have no names."""

    @classmethod
    def of(cls, recipe: Recipe, facts: Mapping[str, Any]) -> "Trained":
        """Raises DataError if there is no such model."""
        config = load_model_config(recipe)
        task = task_of(recipe, facts, load_tokenizer(recipe), config)
        return cls(recipe, config, task, TASKS[recipe.task.kind].head_labels(facts))

    def has_head_for(self, options: TaskOptions) -> bool:
        """Whether its head gives what a task with labels asks for, if the labels are the same."""
        own = self.recipe.task
        return own.kind == options.kind and getattr(own, "problem", None) == getattr(options, "problem", None)


def answerers(trained: Trained, held_out: RetentionSet) -> Iterator[Answerer]:
    """Who may answer these rows, the likeliest first: the one of which the rows have the labels. At least one.

    Raises DataError if nobody can.
    """
    options, base = held_out.task, trained.recipe.model.path
    if not options.has_labels:
        # Whether it is the model in training is known when the task is made (settle).
        yield Answerer(base if held_out.model is None else held_out.model, options)
        return
    if held_out.model is not None:
        config = load_model_config(recipe_for(trained.recipe, held_out.model))
        head = labels_for(options, config)
        if head is None:
            raise DataError(f"model: {held_out.model} {_described(config)} has no head for {options.kind}")
        yield Answerer(held_out.model, _with_labels(options, head), head)
        return
    head = labels_for(options, trained.config)
    has_own = trained.has_head_for(options)
    if has_own:
        yield Answerer(None, _with_labels(options, trained.labels), trained.labels)
    if head is not None and not (has_own and sorted(head) == sorted(trained.labels)):
        yield Answerer(base, _with_labels(options, head), head)
    elif not has_own:
        raise DataError(
            f"neither the model in training nor {base} {_described(trained.config)} has a head for {options.kind}; "
            "name a model that has one: model: RUN_DIR or a model folder"
        )


def settle(trained: Trained, answerer: Answerer, task: Task, *, is_named: bool) -> str | None:
    """The model folder with the head that answers, once the task of the rows is known; None for the model in training.

    `is_named`: whether the recipe names that folder. Raises DataError if it cannot answer these rows.
    """
    options = answerer.task
    if not options.has_labels and task.auto_model == trained.task.auto_model:
        if is_named:
            raise DataError(f"model: the model in training answers {options.kind} itself; remove the key")
        return None
    if answerer.head is None:
        return None
    if isinstance(task, GeneratingTask):
        raise DataError(
            f"task.kind: {options.kind} generates answers, which a model in training with another head cannot; "
            "use language_modeling"
        )
    if answerer.head != trained.recipe.model.path:
        _refuse_another_model(trained, answerer.head)
    return answerer.head


def recipe_for(recipe: Recipe, model: str) -> Recipe:
    """The recipe with another model."""
    revision = recipe.model.revision if model == recipe.model.path else None
    return recipe.model_copy(update={"model": ModelConfig(path=model, revision=revision)})


def folder_of(model: str) -> str:
    """The model that `model` of a set stands for: of a run directory, its best exported model.

    Raises DataError if that holds adapters, or is not exported yet.
    """
    path = Path(model)
    if (path / CONFIG).is_file():
        path = path / EXPORT / BEST
        if not path.is_dir():
            raise DataError(f"model: {path} does not exist yet; finish that run first")
        model = str(path)
    if (path / "adapter_config.json").is_file():
        raise DataError(
            f"model: {path} holds adapters, not a whole model; export it with `shardtune export RUN_DIR --merge-lora` "
            "and give that folder"
        )
    return model


def labels_for(options: TaskOptions, config: "PreTrainedConfig") -> list[str] | None:
    """The labels of the head that a checkpoint has for a task with labels, in their order; None if it has none."""
    of_config = getattr(config, "problem_type", None)
    if options.kind == "classification" and of_config not in (None, PROBLEM_TYPES[getattr(options, "problem", "")]):
        return None
    return labels_of_head(config, TASKS[options.kind].auto_model)


def _with_labels(options: TaskOptions, labels: list[str]) -> TaskOptions:
    """The options with these labels as the only legal ones, unless they name some, or the labels have no names."""
    if not labels or not are_named(labels):
        return options
    if options.kind == "token_classification":
        types = list(dict.fromkeys(label.partition("-")[2] for label in labels if "-" in label))
        if not types or not _lacks(options, "types"):
            return options
        return options.model_copy(update={"types": tuple(types)})
    has_names = getattr(options, "problem", None) in ("single_label", "multi_label")
    if not has_names or not _lacks(options, "label_names"):
        return options
    return options.model_copy(update={"label_names": tuple(labels)})


def _lacks(options: TaskOptions, key: str) -> bool:
    return getattr(options, key) is None


def _refuse_another_model(trained: Trained, head: str) -> None:
    """Raises DataError unless the head was made for models like the one in training, and for its tokens."""
    recipe = recipe_for(trained.recipe, head)
    config, own = load_model_config(recipe), trained.config
    if config.model_type != own.model_type:
        raise DataError(
            f"model: {head} is a {config.model_type} model, and the one in training is a {own.model_type} model"
        )
    for name in SIZES:
        sizes = [first_number(each.get_text_config(), name) for each in (config, own)]
        if sizes[0] != sizes[1]:
            raise DataError(
                f"model: {head} has {name} {sizes[0]:,}, and the model in training {sizes[1]:,}; its head fits models "
                "of its own size only"
            )
    if load_tokenizer(recipe).get_vocab() != load_tokenizer(trained.recipe).get_vocab():
        raise DataError(
            f"model: the tokenizer of {head} has another vocabulary than that of {trained.recipe.model.path}"
        )


def _described(config: "PreTrainedConfig") -> str:
    return f"({' '.join(config.architectures or ()) or config.model_type})"


def _listed(labels: list[str]) -> str:
    return ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
