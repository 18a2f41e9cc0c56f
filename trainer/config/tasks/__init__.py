"""What a recipe may say of its task: the options of each task family, by the `kind` that chooses it."""

from trainer.config.section import TaskOptions
from trainer.config.tasks.chat import ChatOptions
from trainer.config.tasks.classification import ClassificationOptions
from trainer.config.tasks.language_modeling import LanguageModelingOptions
from trainer.config.tasks.token_classification import TokenClassificationOptions
from trainer.config.tasks.translation import TranslationOptions

TASK_OPTIONS: dict[str, type[TaskOptions]] = {
    "classification": ClassificationOptions,
    "token_classification": TokenClassificationOptions,
    "language_modeling": LanguageModelingOptions,
    "translation": TranslationOptions,
    "chat": ChatOptions,
}
