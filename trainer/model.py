"""The pretrained model with the task's head, as the engine needs it; and its way back to a Hugging Face folder."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn

from trainer.config.errors import DataError
from trainer.config.schema import Recipe
from trainer.data.prepare import load_model_config
from trainer.target_loss import keep_target_loss
from trainer.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EVALUATION = "evaluation.json"
"""In an exported folder: the dev metrics of its model."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_model(recipe: Recipe, task: Task, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """Collective under ZeRO-3: the pretrained weights with the task's head, the same on every rank and stage.

    If the tokenizer has more tokens than the model, they get embeddings. Raises DataError if the path holds no model of
    this kind.
    """
    torch.manual_seed(recipe.train.seed)
    auto_model = getattr(transformers, task.auto_model)
    how: dict[str, Any] = {"config": load_model_config(recipe, task), "dtype": DTYPES[recipe.engine.precision]}
    if recipe.model.attention != "auto":
        how["attn_implementation"] = recipe.model.attention
    model: PreTrainedModel
    try:
        if recipe.model.from_scratch:
            model = auto_model.from_config(**how)
        else:
            model = auto_model.from_pretrained(recipe.model.path, revision=recipe.model.revision, **how)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"model.path: {recipe.model.path!r} cannot be loaded as {task.auto_model}: {error}") from error
    if len(tokenizer) > (num_rows := load_model_config(recipe).get_text_config().vocab_size):
        torch.manual_seed(recipe.train.seed)  # whatever the loading drew, which differs between the stages
        grow_embeddings(model, len(tokenizer), num_rows)
    if task.generation is not None:
        remember_generation(model, task.generation.settings)
    if task.wants_target_loss:
        keep_target_loss(model)
    if recipe.model.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def grow_embeddings(model: "PreTrainedModel", num_tokens: int, num_rows: int) -> None:
    """Collective under ZeRO-3: gives new tokens the mean of the num_rows embeddings that there are.

    Their number stays a multiple of the power of two, 128 at most, that it was a multiple of: for the matrix units.
    """
    multiple = math.gcd(num_rows, 128)
    model.resize_token_embeddings(-(-num_tokens // multiple) * multiple)


def remember_generation(model: "PreTrainedModel", settings: Mapping[str, Any]) -> None:
    """Lets the model, and the exported one, generate with these settings; what ended its texts still does."""
    generation: Any = model.generation_config
    own = generation.eos_token_id
    generation.update(**settings)
    if "eos_token_id" in settings and own is not None:
        its, new = ([ids] if isinstance(ids, int) else list(ids) for ids in (own, settings["eos_token_id"]))
        generation.eos_token_id = list(dict.fromkeys([*new, *its]))


def generate(model: nn.Module, inputs: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
    """The token ids that the model answers, without the prompts; shape (rows, longest answer)."""
    pretrained: Any = model
    ids: Tensor = pretrained.generate(**inputs, **settings)
    return ids if pretrained.config.is_encoder_decoder else ids[:, inputs["input_ids"].shape[1] :]


def load_exported(recipe: Recipe, task: Task, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> dict[str, Tensor]:
    """The whole state dict of an exported model, under the names that the training model has."""
    exported = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"path": str(folder), "revision": None, "from_scratch": False})}
    )
    return dict(load_model(exported, task, tokenizer).state_dict())


def export_model(
    model: nn.Module,
    weights: dict[str, Tensor],
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    dev_metrics: Mapping[str, Any] | None = None,
) -> None:
    """Writes a folder that AutoModel and transformers.pipeline load: config, safetensors, tokenizer. Rank zero only.

    Whoever looks finds the old folder or the new one, whole.
    """
    draft, old = folder.with_name(f".{folder.name}.draft"), folder.with_name(f".{folder.name}.old")
    for leftover in (draft, old):
        shutil.rmtree(leftover, ignore_errors=True)
    pretrained: Any = model
    pretrained.save_pretrained(draft, state_dict=weights)
    tokenizer.save_pretrained(draft)
    if dev_metrics is not None:
        (draft / EVALUATION).write_text(json.dumps(dev_metrics, ensure_ascii=False, indent=1), encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def exported_dev_metrics(folder: Path) -> dict[str, Any] | None:
    """What dev said of the exported model; None if it was not asked."""
    if not (folder / EVALUATION).is_file():
        return None
    metrics: dict[str, Any] = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    return metrics


def calibrate(task: Task, folder: Path) -> None:
    """Gives the task what dev said of the exported model, if dev was asked."""
    if (metrics := exported_dev_metrics(folder)) is not None:
        task.calibrate(metrics)
