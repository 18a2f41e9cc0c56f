"""Loads the pretrained model with the task's head, as the engine needs it, and saves its files other than weights."""

import copy
import json
import logging
import math
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model.lora import adapt, choose
from shardtune.trainer.model.pretrained import load_model_config
from shardtune.trainer.model.target_loss import keep_target_loss
from shardtune.trainer.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EVALUATION = "evaluation.json"
"""File of an exported folder: the dev metrics of its model."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MOST_NAMES = 10
"""Names of weights that one line of the log has room for."""

log = logging.getLogger(__name__)


def load_model(recipe: Recipe, task: Task, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """Collective under ZeRO-3: the pretrained weights with the task's head, the same on every rank and stage.

    If the tokenizer has more tokens than the model, embeddings are added. With model.lora it has adapters, and few of
    its parameters require a gradient. Raises DataError if the path has no model of this kind.
    """
    torch.manual_seed(recipe.train.seed)
    auto_model = getattr(transformers, task.auto_model)
    how: dict[str, Any] = {"config": load_model_config(recipe, task), "dtype": DTYPES[recipe.engine.precision]}
    if recipe.model.attention != "auto":
        how["attn_implementation"] = recipe.model.attention
    model: PreTrainedModel
    new: set[str] = set()
    try:
        if recipe.model.from_scratch:
            model = auto_model.from_config(**how)
        else:
            how |= {"revision": recipe.model.revision, "output_loading_info": True}
            with _load_report_dropped():
                model, info = auto_model.from_pretrained(recipe.model.path, **how)
            new |= set(info["missing_keys"])
            if text := describe_loading(info["missing_keys"], info["unexpected_keys"]):
                log.warning("model.path: %s: %s", recipe.model.path, text)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"model.path: {recipe.model.path!r} cannot be loaded as {task.auto_model}: {error}") from error
    if len(tokenizer) > (num_rows := load_model_config(recipe).get_text_config().vocab_size):
        torch.manual_seed(recipe.train.seed)  # the random numbers of loading differ between the stages
        grow_embeddings(model, len(tokenizer), num_rows)
        new |= _embeddings_of(model)
    if (lora := recipe.model.lora) is not None:
        adapt(model, lora, choose(model, lora, task, new=new), seed=recipe.train.seed)
    if task.generation is not None:
        remember_generation(model, task.generation.settings)
    if task.wants_target_loss:
        keep_target_loss(model)
    if recipe.model.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


@contextmanager
def _load_report_dropped() -> Iterator[None]:
    """Keeps transformers' load report, a table in escape codes, out of the log; an exception gets it as a note."""
    logger, report = logging.getLogger("transformers.modeling_utils"), _LoadReport()
    logger.addFilter(report)
    try:
        yield
    except Exception as error:
        if report.text:
            error.add_note(report.text)
        raise
    finally:
        logger.removeFilter(report)


class _LoadReport(logging.Filter):
    """Drops the load report from a logger and keeps its plain text."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_report = " LOAD REPORT" in message
        if is_report:
            self.text = re.sub(r"\x1b\[[0-9;]*m", "", message)
        return not is_report


def describe_loading(missing: Collection[str], unexpected: Collection[str]) -> str:
    """Return one line that names the weights the checkpoint lacks and those the model does not use; "" without any."""
    parts = []
    if missing:
        parts.append(f"newly initialized, because the checkpoint lacks them: {_listed(missing)}")
    if unexpected:
        parts.append(f"in the checkpoint, but not used by this model: {_listed(unexpected)}")
    return "; ".join(parts)


def _listed(names: Collection[str]) -> str:
    """The names, sorted, with `*` for the numbers of layers; at most MOST_NAMES of them."""
    patterns = sorted({re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names})
    more = [f"and {len(patterns) - MOST_NAMES} more"] if len(patterns) > MOST_NAMES else []
    return ", ".join([*patterns[:MOST_NAMES], *more])


def grow_embeddings(model: "PreTrainedModel", num_tokens: int, num_rows: int) -> None:
    """Collective under ZeRO-3: adds embeddings for new tokens, each the mean of the num_rows existing ones.

    Their number stays a multiple of the largest power of two up to 128 that divides num_rows, for the matrix units.
    """
    multiple = math.gcd(num_rows, 128)
    model.resize_token_embeddings(-(-num_tokens // multiple) * multiple)


def _embeddings_of(model: "PreTrainedModel") -> set[str]:
    """Names of the weights that have a row for each token."""
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    weights = {id(weight) for layer in layers for weight in layer.parameters()}
    return {name for name, weight in model.named_parameters() if id(weight) in weights}


def remember_generation(model: "PreTrainedModel", settings: Mapping[str, Any]) -> None:
    """Sets how the model, also once exported, generates; its own end-of-text tokens are kept."""
    generation: Any = model.generation_config
    own = generation.eos_token_id
    generation.update(**settings)
    if "eos_token_id" in settings and own is not None:
        old, new = ([ids] if isinstance(ids, int) else list(ids) for ids in (own, settings["eos_token_id"]))
        generation.eos_token_id = list(dict.fromkeys([*new, *old]))


def generate(model: nn.Module, inputs: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
    """The token ids of the model's answers without the prompts; shape (rows, longest answer)."""
    pretrained: Any = model
    ids: Tensor = pretrained.generate(**inputs, **settings)
    return ids if pretrained.config.is_encoder_decoder else ids[:, inputs["input_ids"].shape[1] :]


def keep_model_files(model: nn.Module, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Writes a model's files other than weights, once: config, generation config and tokenizer. Rank 0 only."""
    if folder.is_dir():
        return
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    pretrained: Any = model
    config = copy.deepcopy(pretrained.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(draft)
    if pretrained.can_generate():
        pretrained.generation_config.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    draft.rename(folder)


def calibrate(task: Task, folder: Path) -> None:
    """Passes the dev metrics of the exported model to the task, if there are any."""
    if (folder / EVALUATION).is_file():
        task.calibrate(json.loads((folder / EVALUATION).read_text(encoding="utf-8")))
