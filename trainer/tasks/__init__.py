"""The task families, by the `kind` that a recipe names."""

from trainer.tasks.chat import Chat
from trainer.tasks.classification import Classification
from trainer.tasks.task import Task, TaskOptions
from trainer.tasks.token_classification import TokenClassification

__all__ = ["TASKS", "Task", "TaskOptions"]

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "token_classification": TokenClassification,
    "chat": Chat,
}
