"""The tokenizer and the config of the pretrained model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


def load_tokenizer(recipe: Recipe) -> "PreTrainedTokenizerBase":
    """Returns the tokenizer of model.path. Raises DataError if there is none."""
    from transformers import AutoTokenizer

    with _as_data_error(recipe, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            recipe.model.path, revision=recipe.model.revision
        )
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            # transformers 5 makes up an empty one if the folder has no vocabulary, and every word would be unknown.
            raise ValueError("its vocabulary is empty")
    return tokenizer


def load_model_config(recipe: Recipe, task: Task | None = None) -> "PreTrainedConfig":
    """Returns the model's config with the task's head and the recipe's dropout. Raises DataError if there is none."""
    from transformers import AutoConfig

    with _as_data_error(recipe, "model config"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            recipe.model.path, revision=recipe.model.revision, **(task.model_config() if task else {})
        )
    if recipe.model.dropout is not None:
        # Every architecture has its own names for its dropouts (hidden_dropout_prob, attention_dropout, …).
        for name, value in config.to_dict().items():
            if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
                setattr(config, name, recipe.model.dropout)
    return config


@contextmanager
def _as_data_error(recipe: Recipe, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"model.path: no {what} could be loaded from {recipe.model.path!r} ({reason}); "
            "give a Hugging Face model folder, or a hub id that this machine can reach"
        ) from error
