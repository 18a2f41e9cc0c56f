"""A model folder that shardtune has not exported: what it can do is found in its config, or asked for.

Its weights must all be there: a head that is drawn at random would be measured as if it had been trained.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardtune.errors import CheckpointError, ConfigError, DataError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row
from shardtune.rows.source_files import is_hub
from shardtune.run_dir.files import MODEL
from shardtune.trainer.commands.inference.placement import place, placement
from shardtune.trainer.commands.quality.head_of_model import facts_of_rows, label_names, problem_of
from shardtune.trainer.data.prepare.prepare import most_tokens
from shardtune.trainer.model.load import calibrate, describe_loading
from shardtune.trainer.model.lora import ADAPTER_CONFIG, is_adapter, open_base, put_on
from shardtune.trainer.tasks import TASKS, Task, task_of

if TYPE_CHECKING:
    import torch

KINDS: Mapping[str, tuple[str, ...]] = {
    "ForSequenceClassification": ("classification",),
    "ForTokenClassification": ("token_classification",),
    "ForMaskedLM": ("language_modeling",),
    "ForConditionalGeneration": ("translation",),
    "MTModel": ("translation",),
    "ForCausalLM": ("language_modeling", "chat", "translation"),
    "LMHeadModel": ("language_modeling", "chat", "translation"),
}
"""The end of an architecture's name -> the tasks that such a model may have learned."""
USUAL_TOKENS = 512
"""data.max_tokens, if the model takes as many."""


def recipe_of(folder: Path, kind: str | None, overrides: Sequence[str], paths: Sequence[str]) -> Recipe:
    """The recipe by which rows of these paths are read for the model of a folder.

    Raises ConfigError if the folder does not tell the task, or an override is illegal; DataError if it is no model.
    """
    given = dict(override.split("=", 1) for override in overrides)
    base, revision = (given["model.path"], None) if "model.path" in given else _base(folder)
    revision = given.get("model.revision", revision)
    config = _load("config", "AutoConfig", _config_place(folder, base), revision)
    kind = kind or _kind_of(folder, config)
    task: dict[str, Any] = {"kind": kind}
    if kind == "classification":
        task["problem"] = problem_of(config)
    tokenizer = _tokenizer(folder, base, revision)
    most = most_tokens(config, tokenizer, wanted=USUAL_TOKENS)
    values = {
        "task": task,
        "model": {"path": base, "revision": revision},
        "data": {
            "train": [path if is_hub(path) else str(Path(path).absolute()) for path in paths] or str(folder),
            "max_tokens": min(USUAL_TOKENS, most),
        },
    }
    recipe = parse_recipe(json.dumps(values), overrides, name=str(folder))
    if recipe.data.max_tokens > most_tokens(config, tokenizer):
        raise DataError(
            f"data.max_tokens: {recipe.data.max_tokens} is more than the model of {folder} takes ({most:,}); lower it"
        )
    return recipe


def _kind_of(folder: Path, config: Any) -> str:
    """The only task that a model of this config may have learned. Raises ConfigError if there are several, or none."""
    (architecture,) = (config.architectures or [""])[:1]
    kinds = next((kinds for end, kinds in KINDS.items() if architecture.endswith(end)), ())
    if len(kinds) == 1:
        return kinds[0]
    what = f"a {architecture}" if architecture else f"a {config.model_type} model without a head"
    may = f"{', '.join(kinds[:-1])} or {kinds[-1]}" if kinds else "several tasks, or none yet"
    raise ConfigError(f"{folder}: {what} may have learned {may}; say which, as in --task={(kinds or tuple(TASKS))[0]}")


def open_task(recipe: Recipe, folder: Path, facts: Mapping[str, Any]) -> tuple[Task, Any, Any]:
    """The task, the tokenizer, and the config with the task's head. Raises DataError if the model is of another kind.

    If an earlier version of shardtune has exported it, the task has what the dev metrics tell.
    """
    base, revision = recipe.model.path, recipe.model.revision
    config = _load("config", "AutoConfig", _config_place(folder, base), revision)
    tokenizer = _tokenizer(folder, base, revision)
    task = task_of(recipe, facts, tokenizer, config)
    task.check_model(config)
    if len(tokenizer) > getattr(config.get_text_config(), "vocab_size", len(tokenizer)):
        raise DataError(f"{folder}: the tokenizer has tokens that the model lacks; remove task.chat_template")
    if names := task.head_labels(facts):
        config.num_labels = len(names)
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = task.model_config().get("pad_token_id")
    calibrate(task, folder)
    return task, tokenizer, config


def learn_facts(
    recipe: Recipe, folder: Path, rows: Sequence[Row], faults: Faults, say: Callable[[str], None]
) -> dict[str, Any]:
    """What the task has to know of the labels of the model and of these rows; adds the rows that do not fit to the
    faults. Raises DataError if the model has other outputs than the options name, or the rows as a whole do not fit."""
    base, revision = recipe.model.path, recipe.model.revision
    config = _load("config", "AutoConfig", _config_place(folder, base), revision)
    names = label_names(recipe.task, config, folder, is_adapter=is_adapter(folder))
    head = [str(config.id2label[number]) for number in sorted(config.id2label)] if names else []
    facts, notes = facts_of_rows(recipe, names, head, rows, faults)
    for note in notes:
        say(note)
    return facts


def open_model(
    recipe: Recipe, folder: Path, facts: Mapping[str, Any], device: "torch.device", *, is_split: bool = False
) -> tuple[Task, Any, Any]:
    """The task, the model of the folder and its tokenizer. Raises CheckpointError if weights are missing or unreadable,
    DataError if it is no model of this kind."""
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.disable_progress_bar()
    task, tokenizer, config = open_task(recipe, folder, facts)
    auto_model = getattr(transformers, task.auto_model)
    where = placement(is_split=is_split)
    try:
        if is_adapter(folder):
            _refuse_random_head(recipe, folder, config, task)
            model = put_on(open_base(recipe, auto_model, config, dtype=None, where=where), folder)
        else:
            model, info = auto_model.from_pretrained(
                folder, config=config, trust_remote_code=False, output_loading_info=True, dtype="auto", **where
            )
            if info["missing_keys"]:
                lacking = describe_loading(info["missing_keys"], ())
                raise CheckpointError(
                    f"{folder} cannot be evaluated as {recipe.task.kind}: {lacking}; fine-tune it first, or give "
                    "--task for what it has learned"
                )
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: its weights cannot be read ({_first_line(error)})") from error
    except RuntimeError as error:
        if "mismatch" not in "\n".join((str(error), *getattr(error, "__notes__", ()))).lower():
            raise
        what = "its weights have other shapes than its config and its labels ask for"
        raise CheckpointError(f"{folder}: {what} (task.label_names names these)") from error
    return task, place(model, device, is_split=is_split).eval(), tokenizer


def _refuse_random_head(recipe: Recipe, folder: Path, config: Any, task: Task) -> None:
    """Raises CheckpointError if neither the adapters nor their base have a head for the labels."""
    saved = _adapter_config(folder).get("modules_to_save")
    kind = task.auto_model.removeprefix("AutoModel")
    has_own = any(name.endswith(kind) for name in config.architectures or ())
    if recipe.task.has_labels and not saved and not has_own:
        raise CheckpointError(
            f"{folder} cannot be evaluated as {recipe.task.kind}: neither the adapters nor their base model have a "
            "trained head (modules_to_save)"
        )


def _base(folder: Path) -> tuple[str, str | None]:
    """Where the weights of the model begin: the folder itself, or the base model of its adapters, and a revision."""
    if not is_adapter(folder):
        return str(folder), None
    config = _adapter_config(folder)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DataError(f"{folder / ADAPTER_CONFIG} names no base model (base_model_name_or_path)")
    return base, config.get("revision")


def _adapter_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        return dict(config)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / ADAPTER_CONFIG} cannot be read ({_first_line(error)})") from error


def _config_place(folder: Path, base: str) -> str:
    """Where the config is: of adapters that shardtune has exported, beside them."""
    kept = folder / MODEL
    return str(kept) if is_adapter(folder) and (kept / "config.json").is_file() else base


def _tokenizer(folder: Path, base: str, revision: str | None) -> Any:
    """The tokenizer of the folder, or of the base model if adapters have none."""
    is_here = not is_adapter(folder) or any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")
    )
    tokenizer = _load("tokenizer", "AutoTokenizer", str(folder) if is_here else base, None if is_here else revision)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise DataError(f"{folder}: no tokenizer could be loaded (its vocabulary is empty); copy its files there")
    return tokenizer


def _load(what: str, loader: str, place_: str, revision: str | None) -> Any:
    """What an Auto class of transformers loads from there. Raises DataError."""
    import transformers

    try:
        revisions = {} if revision is None else {"revision": revision}
        return getattr(transformers, loader).from_pretrained(place_, trust_remote_code=False, **revisions)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{place_}: no {what} could be loaded ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
