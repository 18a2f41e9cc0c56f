"""Loads the pretrained model with the task's head, as the engine needs it, and saves its files other than weights."""

import copy
import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model.attention.settle import settle_attention
from shardtune.trainer.model.generation import (
    decoding_of_recipe,
    describe_unused,
    remember_generation,
    unset_invalid,
)
from shardtune.trainer.model.head import HeadChoice, choose_head, draw_head, own_heads, set_labels
from shardtune.trainer.model.kernels.choice import Choice
from shardtune.trainer.model.kernels.liger import liger_loss, use_liger
from shardtune.trainer.model.layer_drop import describe_layer_drop
from shardtune.trainer.model.lora import adapt, choose
from shardtune.trainer.model.parts.freeze import freeze
from shardtune.trainer.model.parts.layers import remember_new
from shardtune.trainer.model.pretrained import (
    dropouts_of,
    hub_words,
    layerdrops_of,
    load_model_config,
    load_tokenizer,
    unreachable,
)
from shardtune.trainer.model.quantized.loading import (
    describe_quantized,
    quantizing,
    refuse_quantized,
    settle_quantized,
)
from shardtune.trainer.model.target_loss import keep_target_loss
from shardtune.trainer.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

EVALUATION = "evaluation.json"
"""File of an exported folder: the dev metrics of its model."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CPU = torch.device("cpu")
MOST_NAMES = 10
"""Names of weights that one line of the log has room for."""
_MISMATCH = re.compile(r"^(\S.*?) *\| *MISMATCH", re.MULTILINE)
"""A line of transformers' load report on weights of another shape."""

log = logging.getLogger(__name__)


def load_model(
    recipe: Recipe,
    task: Task,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    say: Callable[[str], None] = lambda _: None,
    device: torch.device = CPU,
    kernels: Choice | None = None,
) -> "PreTrainedModel":
    """Collective under ZeRO-3: the pretrained weights with the task's head, the same on every rank and stage.

    If the tokenizer has more tokens than the model, embeddings are added. With model.lora it has adapters, and few of
    its parameters require a gradient; with model.freeze some do not. `say` is called with what is not as the pretrained
    model has it, and with the attention chosen for the `device`. Without `kernels`, torch computes everything. Raises
    DataError if the path has no model of this kind, no head that model.head asks for, or nothing that model.freeze
    names, and ConfigError if model.attention asks for what is not to be had here.
    """
    pretrained = load_model_config(recipe)
    head = choose_head(recipe, task, pretrained)
    if head.note:
        say(head.note)
    config = config_to_load(recipe, task, head)
    attention = settle_attention(recipe, task, config, device, say)
    torch.manual_seed(recipe.train.seed)
    model, new = load_weights(recipe, task, config, attention, device)
    refuse_without_base(recipe, new)
    if head.is_replaced:
        draw_head(model, load_model_config(recipe, task), seed=recipe.train.seed)
        heads = tuple(f"{name}." for name in own_heads(model))
        new |= {name for name, _ in model.named_parameters() if name.startswith(heads)}
    # Without a vocabulary (CANINE) there is nothing to add to.
    num_rows = getattr(pretrained.get_text_config(), "vocab_size", len(tokenizer))
    if len(tokenizer) > num_rows:
        torch.manual_seed(recipe.train.seed)  # the random numbers of loading differ between the stages
        grow_embeddings(model, len(tokenizer), num_rows)
    remember_new(model, new)
    if recipe.model.lora is not None or recipe.model.freeze:
        added = _added_tokens(recipe, tokenizer)
        if added or len(tokenizer) > num_rows:
            # Also where the vocabulary has room for them: a row that was never trained means nothing.
            new |= embeddings_of(model)
            names = f" ({_listed(added)})" if added else ""
            key = "freeze" if recipe.model.freeze else "lora"
            say(f"model.{key}: the embeddings are trained as a whole, because the model lacks some tokens{names}")
        _limit_training(model, recipe, task, new, say)
    if model.can_generate():
        _settle_generation(model, task, say)
    for note in _notes_on_dropout(recipe, pretrained, model):
        say(note)
    if kernels is not None and kernels.uses_liger:
        use_liger(model)
    if task.wants_target_loss:
        keep_target_loss(model, liger_loss if kernels is not None and kernels.has_liger_loss else None)
    else:
        _keep_no_cache(model)
    if recipe.model.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def config_to_load(recipe: Recipe, task: Task, head: HeadChoice) -> "PreTrainedConfig":
    """The config of the model while its weights are loaded: with the labels of a head that is to be replaced, because
    the weights have that shape."""
    config = load_model_config(recipe, task)
    if head.is_replaced:
        set_labels(config, load_model_config(recipe))
    return config


def refuse_without_base(recipe: Recipe, new: Collection[str]) -> None:
    """Raises DataError if the recipe compares the model with the pretrained one, and that lacks these weights."""
    if recipe.compares_with_base and new:
        raise DataError(
            f"model.path: {recipe.model.path!r} has no weights for {_listed(new)}, drawn at random now: kl_to_base "
            "has no pretrained distribution to compare with; remove the key, or use a model that has this head"
        )


def _limit_training(
    model: "PreTrainedModel", recipe: Recipe, task: Task, new: set[str], say: Callable[[str], None]
) -> None:
    """Adds adapters, or freezes weights, of a model whose weights named in `new` are not pretrained."""
    if (lora := recipe.model.lora) is not None:
        adapt(model, lora, choose(model, lora, task, new=new), seed=recipe.train.seed)
        if (note := describe_quantized(model)) is not None:
            say(note)
        return
    for note in freeze(model, recipe.model.freeze, new=new):
        say(note)


def _keep_no_cache(model: nn.Module) -> None:
    """Makes a causal model keep no copy of its keys and values, which only generation uses."""

    def without_cache(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {"use_cache": False} | kwargs

    if "use_cache" in signature(type(model).forward).parameters:
        model.register_forward_pre_hook(without_cache, with_kwargs=True)


def load_weights(
    recipe: Recipe, task: Task, config: "PreTrainedConfig", attention: str | None, device: torch.device
) -> tuple["PreTrainedModel", set[str]]:
    """Collective under ZeRO-3: the model of this config, and the names of its weights that are not pretrained.

    A quantized one is read onto the device, weight by weight, all others into host memory; onto the meta device none
    are read. Raises DataError.
    """
    auto_model = getattr(transformers, task.auto_model)
    path = recipe.model.path
    how: dict[str, Any] = {"config": config, "dtype": DTYPES[recipe.engine.precision]}
    if attention is not None:
        how["attn_implementation"] = attention
    fault = unreachable(recipe)
    try:
        if recipe.model.from_scratch:
            return auto_model.from_config(**how), set()
        how |= {"revision": recipe.model.revision, "output_loading_info": True, "trust_remote_code": False}
        with _load_report_dropped():
            is_meta = device.type == "meta"
            quantization = {} if is_meta else _quantization(recipe, task, auto_model, how, device)
            how |= {"device_map": "meta"} if is_meta else {}
            model, info = auto_model.from_pretrained(path, **{**how, **quantization})
            if quantization:
                settle_quantized(model, how["dtype"])
    except (OSError, ValueError, ImportError) as error:
        if fault is not None:
            raise DataError(hub_words(recipe, fault)) from error
        raise DataError(f"model.path: {path!r} cannot be loaded as {task.auto_model}: {error}") from error
    except RuntimeError as error:
        names = _MISMATCH.findall("\n".join(getattr(error, "__notes__", ())))
        if not names:
            raise
        text = f"these weights have other shapes than its config.json says: {_listed(names)}"
        raise DataError(f"model.path: {path!r}: {text}") from error
    if text := describe_loading(info["missing_keys"], info["unexpected_keys"]):
        log.warning("model.path: %s: %s", path, text)
    return model, set(info["missing_keys"])


def _quantization(
    recipe: Recipe, task: Task, auto_model: Any, how: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """The arguments of from_pretrained that quantize a frozen base as model.lora.quantize_base says; none without it.

    Which layers have no pretrained weights, and are trained, is found without reading any. Raises DataError.
    """
    lora = recipe.model.lora
    if lora is None or lora.quantize_base == "none":
        return {}
    refuse_quantized(how["config"], recipe.model.path)
    shapes, info = auto_model.from_pretrained(recipe.model.path, device_map="meta", **how)
    layers = choose(shapes, lora, task, new=set(info["missing_keys"])).frozen
    return quantizing(how["config"], layers, lora.quantize_base, device)


def _added_tokens(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The tokens that the task has added to the pretrained tokenizer."""
    return sorted(tokenizer.get_vocab().keys() - load_tokenizer(recipe).get_vocab().keys())


def _notes_on_dropout(recipe: Recipe, config: "PreTrainedConfig", model: nn.Module) -> Iterator[str]:
    """What the recipe sets and this model lacks, and how likely its layers are skipped."""
    for key, names in (("dropout", dropouts_of(config)), ("layerdrop", layerdrops_of(config))):
        if getattr(recipe.model, key) is not None and not names:
            yield f"model.{key} has no effect: the model's config has no {key} probability"
    if (note := describe_layer_drop(model)) is not None:
        yield note


def _settle_generation(model: "PreTrainedModel", task: Task, say: Callable[[str], None]) -> None:
    """Sets how the exported model generates, and says what of its own settings is not used, or not valid."""
    notes = [unset_invalid(model.generation_config)]
    if task.generation is not None:
        notes.append(describe_unused(model.generation_config, task.generation.settings))
        remember_generation(model, task.generation.settings)
    for note in filter(None, notes):
        say(note)


@contextmanager
def _load_report_dropped() -> Iterator[None]:
    """Keeps transformers' load report, a table in escape codes, out of the log; an exception gets it as a note."""
    logger = logging.getLogger("transformers.modeling_utils")
    level, report = logger.level, _LoadReport(logger.getEffectiveLevel())
    logger.addFilter(report)
    logger.setLevel(logging.WARNING)  # else an application that has silenced transformers would not learn the names
    try:
        yield
    except Exception as error:
        if report.text:
            error.add_note(report.text)
        raise
    finally:
        logger.setLevel(level)
        logger.removeFilter(report)


class _LoadReport(logging.Filter):
    """Drops the load report from a logger, and all below a level, and keeps the report's plain text."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level
        self.text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_report = " LOAD REPORT" in message
        if is_report:
            self.text = re.sub(r"\x1b\[[0-9;]*m", "", message)
        return not is_report and record.levelno >= self._level


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


def embeddings_of(model: "PreTrainedModel") -> set[str]:
    """Names of the weights that have a row for each token."""
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    weights = {id(weight) for layer in layers for weight in layer.parameters()}
    return {name for name, weight in model.named_parameters() if id(weight) in weights}


def generate(model: nn.Module, inputs: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
    """The token ids of the model's answers without the prompts; shape (rows, longest answer).

    `settings` alone decide what is generated, not the generation_config of the model.
    """
    pretrained: Any = model
    with decoding_of_recipe(pretrained):
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
