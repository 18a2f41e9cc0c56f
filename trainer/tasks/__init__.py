"""The task families, by the `kind` that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shardtune.trainer.tasks.chat.chat import Chat
from shardtune.trainer.tasks.classification.classification import Classification
from shardtune.trainer.tasks.language_modeling.language_modeling import LanguageModeling
from shardtune.trainer.tasks.multiple_choice.multiple_choice import MultipleChoice
from shardtune.trainer.tasks.task import Task
from shardtune.trainer.tasks.token_classification.token_classification import TokenClassification
from shardtune.trainer.tasks.translation.translation import Translation

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.recipe.schema import Recipe

__all__ = ["TASKS", "Task", "task_of"]

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "token_classification": TokenClassification,
    "language_modeling": LanguageModeling,
    "translation": Translation,
    "chat": Chat,
    "multiple_choice": MultipleChoice,
}


def task_of(
    recipe: Recipe, facts: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> Task:
    """The recipe's task. Raises DataError if the tokenizer or the model cannot be used for it."""
    task = TASKS[recipe.task.kind](recipe.task, facts, tokenizer, config)
    task.escapes_special_tokens = recipe.data.special_tokens_in_text == "escape"
    return task
