"""The tokenizer and the config of the pretrained model."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shardtune.errors import CheckpointError, DataError
from shardtune.recipe.schema import Recipe
from shardtune.rows.hub_access import hub_fault
from shardtune.trainer.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_NO_DROPOUT = re.compile("layer_?drop|drop_?path|path_drop|drop_connect|drop_conv|token_drop")
"""Names of what skips layers or whole branches for a row (stochastic depth), and of NLLB-MoE's masking of experts, by
which its outputs are scaled in predictions too. As in the configs of transformers 5.23."""


def load_tokenizer(recipe: Recipe) -> "PreTrainedTokenizerBase":
    """Returns the tokenizer of model.path. Raises DataError if there is none."""
    from transformers import AutoTokenizer

    with _as_data_error(recipe, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            recipe.model.path, revision=recipe.model.revision, trust_remote_code=False
        )
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            # transformers 5 makes up an empty one if the folder has no vocabulary, and every word would be unknown.
            raise ValueError("its vocabulary is empty")
    return tokenizer


def load_model_config(recipe: Recipe, task: Task | None = None) -> "PreTrainedConfig":
    """Returns the model's config with the task's head and the recipe's dropout and LayerDrop.

    Raises DataError if there is none.
    """
    from transformers import AutoConfig

    changes = task.model_config() if task else {}
    num_labels = changes.pop("num_labels", None)  # with it, transformers warn of the number of labels before
    with _as_data_error(recipe, "model config"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            recipe.model.path, revision=recipe.model.revision, trust_remote_code=False, **changes
        )
    if num_labels is not None:
        config.num_labels = num_labels
    for probability, names in (
        (recipe.model.dropout, dropouts_of(config)),
        (recipe.model.layerdrop, layerdrops_of(config)),
    ):
        for name in names if probability is not None else ():
            setattr(config, name, probability)
    return config


def model_class(config: "PreTrainedConfig") -> "type[PreTrainedModel]":
    """The class of transformers that the config of a run directory names. Raises CheckpointError if it names none."""
    import transformers

    (name,) = (config.architectures or [""])[:1]
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise CheckpointError(f"config.json of the run's model: architectures: {name!r} is not a model of transformers")
    return found


def first_number(config: "PreTrainedConfig", *names: str) -> int:
    """The first of these numbers that the config has; 0 if it has none."""
    return next((int(value) for name in names if (value := getattr(config, name, None)) is not None), 0)


def dropouts_of(config: "PreTrainedConfig") -> list[str]:
    """The names of a config's dropout probabilities: hidden_dropout_prob, attention_dropout, … in each architecture."""
    return [name for name in _probabilities(config) if "drop" in name and not _NO_DROPOUT.search(name)]


def layerdrops_of(config: "PreTrainedConfig") -> list[str]:
    """The names of the probabilities with which a step skips a layer: encoder_layerdrop, …"""
    return [name for name in _probabilities(config) if name.endswith("layerdrop")]


def _probabilities(config: "PreTrainedConfig") -> list[str]:
    """The names of a config's numbers."""
    values = config.to_dict().items()
    return [name for name, value in values if isinstance(value, int | float) and not isinstance(value, bool)]


def num_positions(config: "PreTrainedConfig", *, wanted: int | None = None) -> int | None:
    """How many tokens a text may have by the model's positions; None where its config names no limit.

    RoBERTa and similar models keep the first positions for padding, which max_position_embeddings counts. A number that
    is too large, but at least `wanted`, may be returned where that is cheaper.
    """
    longest: int | None = getattr(config, "max_position_embeddings", None)
    padding = getattr(config, "pad_token_id", None)
    has_rotary = getattr(config, "rope_parameters", None) is not None
    if not longest or padding is None or has_rotary or (wanted is not None and wanted < longest - padding):
        return longest
    return min(longest, _positions_of_base(config) or longest)


def _positions_of_base(config: "PreTrainedConfig") -> int | None:
    """How many positions a text has in the base model of this config; None if they are not known."""
    import torch
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config)
    except ValueError:  # there is no base model for this config
        return None
    # Where a table of positions has an entry for padding, the positions of a text begin after it.
    rooms = [
        len(module.weight) - module.padding_idx - 1
        for name, module in model.named_modules()
        if "position" in name.rpartition(".")[2]
        and getattr(module, "padding_idx", None) is not None
        and isinstance(getattr(module, "weight", None), torch.Tensor)
    ]
    return min(rooms, default=None)


def unreachable(recipe: Recipe) -> str | None:
    """Why the hub, which model.path names, cannot be reached; None if it can, or if the path is a folder."""
    return None if Path(recipe.model.path).is_absolute() or Path(recipe.model.path).is_dir() else hub_fault()


def hub_words(recipe: Recipe, fault: str) -> str:
    """What to do about a model that is neither here nor can be fetched."""
    return (
        f"model.path: {recipe.model.path!r} is not a folder in {Path.cwd()}, the hub cannot be reached ({fault}), and "
        "its cache lacks it; give a Hugging Face model folder, or download it where there is a network: "
        f"hf download {recipe.model.path}"
    )


@contextmanager
def _as_data_error(recipe: Recipe, what: str) -> Iterator[None]:
    fault = unreachable(recipe)
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        if fault is not None:
            raise DataError(hub_words(recipe, fault)) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):  # transformers' text tells the reader to set it
            raise DataError(
                f"model.path: the {what} of {recipe.model.path!r} needs Python code that lies beside it, which is "
                "never run here; use a model that transformers knows by itself"
            ) from error
        raise DataError(
            f"model.path: no {what} could be loaded from {recipe.model.path!r} ({reason}); "
            "give a Hugging Face model folder, or a hub id that this machine can reach"
        ) from error
