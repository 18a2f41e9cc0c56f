"""The options of each task, by the `kind` that selects it."""

from shardtune.recipe.tasks.chat import ChatOptions
from shardtune.recipe.tasks.classification import ClassificationOptions
from shardtune.recipe.tasks.language_modeling import LanguageModelingOptions
from shardtune.recipe.tasks.multiple_choice import MultipleChoiceOptions
from shardtune.recipe.tasks.token_classification import TokenClassificationOptions
from shardtune.recipe.tasks.translation import TranslationOptions
from shardtune.section import TaskOptions

TASK_OPTIONS: dict[str, type[TaskOptions]] = {
    "classification": ClassificationOptions,
    "token_classification": TokenClassificationOptions,
    "language_modeling": LanguageModelingOptions,
    "translation": TranslationOptions,
    "chat": ChatOptions,
    "multiple_choice": MultipleChoiceOptions,
}
