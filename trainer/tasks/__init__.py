"""The task families, by the `kind` that a recipe names."""

from shardtune.trainer.tasks.chat.chat import Chat
from shardtune.trainer.tasks.classification.classification import Classification
from shardtune.trainer.tasks.language_modeling.language_modeling import LanguageModeling
from shardtune.trainer.tasks.task import Task
from shardtune.trainer.tasks.token_classification.token_classification import TokenClassification
from shardtune.trainer.tasks.translation.translation import Translation

__all__ = ["TASKS", "Task"]

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "token_classification": TokenClassification,
    "language_modeling": LanguageModeling,
    "translation": Translation,
    "chat": Chat,
}
