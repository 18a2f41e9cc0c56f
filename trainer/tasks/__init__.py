"""The task families, by the `kind` that a recipe names."""

from trainer.tasks.classification import Classification
from trainer.tasks.task import Task, TaskOptions

__all__ = ["TASKS", "Task", "TaskOptions"]

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
}
