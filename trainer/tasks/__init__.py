"""The task families, by the `kind` that a recipe names."""

from trainer.tasks.chat import Chat
from trainer.tasks.classification import Classification
from trainer.tasks.language_modeling import LanguageModeling
from trainer.tasks.task import Task
from trainer.tasks.token_classification import TokenClassification
from trainer.tasks.translation import Translation

__all__ = ["TASKS", "Task"]

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "token_classification": TokenClassification,
    "language_modeling": LanguageModeling,
    "translation": Translation,
    "chat": Chat,
}
