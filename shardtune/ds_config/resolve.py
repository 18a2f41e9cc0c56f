"""Merges a ds_config with the recipe: the recipe owns what is learned, the ds_config how it is computed.

DeepSpeed ignores top-level keys that it does not know; here they are refused. DeepSpeed itself is not imported.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shardtune.ds_config.clean import drop_autos, drop_comments, drop_what_changes_nothing, rename_old_keys
from shardtune.ds_config.cluster import Cluster
from shardtune.ds_config.fill import fill_partition, fill_sizes
from shardtune.ds_config.keys import (
    BLOCKS,
    CHOICES,
    ENGINE_KNOBS,
    FLAGS,
    FREE_BLOCKS,
    NOT_COMPILED,
    NUMBERS,
    REFUSED,
    REMOVED_FROM_DEEPSPEED,
    REPLACED,
    TOP_LEVEL,
)
from shardtune.ds_config.nested import get_value, pop_value
from shardtune.ds_config.owned import (
    batch_faults,
    clipping_faults,
    communication_faults,
    optimizer_faults,
    scheduler_faults,
)
from shardtune.ds_config.precision import PRECISIONS, precision_faults, precisions_of
from shardtune.ds_config.zeropp import zeropp_faults
from shardtune.errors import ConfigError
from shardtune.home import expand_home
from shardtune.recipe.explain import did_you_mean, shown
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import AUTO, FOLDER, is_path, not_a_strategy, strategies


def load_ds_config(name_or_path: str) -> dict[str, Any]:
    """Return the JSON object of a strategy (`zero2`) or of the user's file, not yet resolved. Raises ConfigError."""
    if not is_path(name_or_path) and name_or_path not in strategies():
        raise ConfigError(f"engine.deepspeed: {not_a_strategy(name_or_path)}")
    path, source = _file(name_or_path), _source(name_or_path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        config = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        comment = "; JSON has no comments" if error.doc[error.pos :].startswith(("//", "/*", "#")) else ""
        raise ConfigError(f"{source}:{error.lineno}: not JSON: {error.msg}{comment}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not UTF-8 text; save the file as UTF-8") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{source}: expected a JSON object, got {shown(config)}")
    return config


def resolve_ds_config(
    base: Mapping[str, Any], recipe: Recipe, *, hidden_size: int | None, cluster: Cluster | None = None
) -> dict[str, Any]:
    """Return the ds_config for DeepSpeed: the engine settings of `base` and the recipe's values, without "auto".

    `hidden_size` fills the three "auto" of zero_optimization that depend on it, as transformers does, but larger where
    the link of the cluster asks for it; `cluster` fills zero_hpz_partition_size. Those that depend on what is None are
    removed, and DeepSpeed's defaults apply. Raises one ConfigError with a line for each fault.
    """
    return _resolve(base, recipe, hidden_size, cluster)[0]


def ds_config_of(recipe: Recipe, *, hidden_size: int | None, cluster: Cluster | None = None) -> dict[str, Any] | None:
    """Return the ds_config for a recipe, or None without DeepSpeed. Raises ConfigError as the functions above."""
    if recipe.engine.deepspeed is None:
        return None
    base = load_ds_config(recipe.engine.deepspeed)
    return resolve_ds_config(base, recipe, hidden_size=hidden_size, cluster=cluster)


def ds_config_notice(recipe: Recipe) -> str | None:
    """One line on what a recipe's ds_config had renamed, ignored and adopted; None if there is nothing to tell.

    `recipe` is the one that the user gave, whose engine.precision may be auto. Raises ConfigError.
    """
    if recipe.engine.deepspeed is None:
        return None
    notes = _resolve(load_ds_config(recipe.engine.deepspeed), recipe, None, None)[1]
    return f"{source_of(recipe)}: {'; '.join(notes)}" if notes else None


def open_precisions(recipe: Recipe) -> tuple[str, ...]:
    """The precisions that the recipe and its ds_config leave to choose from, best first. Raises ConfigError."""
    return named_precisions(recipe) if recipe.engine.precision == "auto" else (recipe.engine.precision,)


def named_precisions(recipe: Recipe) -> tuple[str, ...]:
    """The precisions that the ds_config leaves to engine.precision: auto, best first. Raises ConfigError."""
    if recipe.engine.deepspeed is None:  # which has the loss scale that fp16 needs
        return tuple(name for name in PRECISIONS if name != "fp16")
    if recipe.engine.deepspeed == AUTO:  # whose strategies leave all to choose from
        return PRECISIONS
    config = load_ds_config(recipe.engine.deepspeed)
    rename_old_keys(config)
    return precisions_of(config) or PRECISIONS


def precision_key(recipe: Recipe, precision: str) -> tuple[str, str]:
    """Where this only open precision was asked for, and how to ask for another one, for messages."""
    if recipe.engine.precision == precision:
        return "engine.precision", "set auto, bf16 or fp32" if precision == "fp16" else "set engine.precision=auto"
    return f"{source_of(recipe)}: {precision}.enabled", 'write "auto"'


def stage_of(recipe: Recipe) -> int:
    """The ZeRO stage of a recipe; 0 if nothing is sharded. Raises ConfigError."""
    return zero_stage(ds_config_of(recipe, hidden_size=None) or {})


def zero_stage(ds_config: Mapping[str, Any]) -> int:
    """The ZeRO stage of a ds_config; 0 if it sets none."""
    return int(ds_config.get("zero_optimization", {}).get("stage", 0))


def adds_up_in_fp32(ds_config: Mapping[str, Any]) -> bool:
    """Whether a resolved ds_config has the gradients of a step's micro-batches added up in fp32."""
    return ds_config["data_types"]["grad_accum_dtype"] in ("fp32", "float32")


def sharding_name(stage: int | None) -> str:
    """`ZeRO-2` for stage 2; `replicated` for None, a run without DeepSpeed."""
    return "replicated" if stage is None else f"ZeRO-{stage}"


def has_own_ds_config(recipe: Recipe) -> bool:
    """Whether the recipe names a DeepSpeed JSON of the user's, rather than a strategy."""
    return recipe.engine.deepspeed is not None and is_path(recipe.engine.deepspeed)


def source_of(recipe: Recipe) -> str:
    """The name of a recipe's ds_config in messages: the user's path, or the file in ds_configs/."""
    assert recipe.engine.deepspeed is not None, "a recipe without DeepSpeed has no ds_config"
    return _source(recipe.engine.deepspeed)


def _resolve(
    base: Mapping[str, Any], recipe: Recipe, hidden_size: int | None, cluster: Cluster | None
) -> tuple[dict[str, Any], list[str]]:
    """The resolved ds_config, and what was done to it, for the user. Raises ConfigError."""
    config = copy.deepcopy(dict(base))
    comments = drop_comments(config)
    renamed, faults = rename_old_keys(config)
    ignored = drop_what_changes_nothing(config)
    shape_faults = [*_shape_faults(config)]
    faults += shape_faults
    if shape_faults:
        _refuse(faults, recipe)
    open_to = precisions_of(config)
    faults += [*_unknown_faults(config), *_scalar_faults(config), *precision_faults(config, recipe.engine.precision)]
    for reason, keys in _without_effect(config).items():
        ignored.setdefault(reason, []).extend(keys)
    faults += [*_owned_faults(config, recipe), *_zero_faults(config, recipe)]
    faults += [*zeropp_faults(config, open_to if recipe.engine.precision == "auto" else (recipe.engine.precision,))]
    fill_sizes(config, hidden_size, cluster, bytes_per_element=4 if recipe.engine.precision == "fp32" else 2)
    faults += [*fill_partition(config["zero_optimization"], cluster)]
    autos = drop_autos(config)
    for key in (*FLAGS, *NUMBERS, *CHOICES):
        if get_value(config, key) is None:  # null is DeepSpeed's default; it would compute with it
            pop_value(config, key)
    _refuse(faults, recipe)
    notes = [_adopted(open_to)] if recipe.engine.precision == "auto" and open_to != PRECISIONS else []
    notes += [f"renamed {', '.join(renamed)}"] if renamed else []
    notes += [f'left to DeepSpeed {", ".join(autos)} ("auto")'] if autos else []
    notes += [f"ignored {', '.join(keys)} ({reason})" for reason, keys in ignored.items()]
    notes += [f"ignored {', '.join(comments)} (a comment)"] if comments else []
    return _with_recipe(config, recipe, open_to), notes


def _refuse(faults: Sequence[str], recipe: Recipe) -> None:
    """Raises one ConfigError with a line for each fault, if there are any."""
    if faults:
        source = source_of(recipe)
        raise ConfigError("\n".join(f"{source}: {' '.join(fault.splitlines())}" for fault in dict.fromkeys(faults)))


def _adopted(open_to: Sequence[str]) -> str:
    return f"engine.precision: auto is {' or '.join(open_to)} by its bf16.enabled and fp16.enabled"


def _without_effect(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Reason -> the keys that DeepSpeed is given, or checks, and that change nothing: rows that it never counts, and
    how it would compile the model."""
    rows = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    compiled = config.get("compile", {})
    keys = {
        "train.micro_batch_tokens divides a step into passes": [key for key in rows if key in config],
        NOT_COMPILED: [f"compile.{key}" for key, value in compiled.items() if value],
    }
    return {
        reason: given
        for reason, listed in keys.items()
        if (given := [key for key in listed if get_value(config, key) not in (None, "auto")])
    }


def _shape_faults(config: dict[str, Any]) -> Iterator[str]:
    """Faults for blocks that are not objects, whose contents cannot be checked."""
    config.setdefault("zero_optimization", {})
    for block in (*BLOCKS, *FREE_BLOCKS, "optimizer", "scheduler"):
        value = get_value(config, block, {})
        if not isinstance(value, dict) and not (value is None and "." in block):
            yield f"{block}: expected an object, got {shown(value)}"


def _scalar_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Faults for values that DeepSpeed does not check, or refuses without a name."""
    for key in (*FLAGS, *NUMBERS, *CHOICES):
        value = get_value(config, key)
        if value in (None, "auto"):
            continue
        if key in CHOICES:
            name = value if key.startswith("data_types.") else str(value).lower()  # for which case counts
            if name not in CHOICES[key]:
                yield f"{key}: got {shown(value)}; legal: {', '.join(CHOICES[key])}"
        elif isinstance(value, bool) != (key in FLAGS) or not isinstance(value, int | float):
            yield f"{key}: expected {'true or false' if key in FLAGS else 'a number'}, got {shown(value)}"


def _unknown_faults(config: Mapping[str, Any]) -> Iterator[str]:
    for key in [key for key in config if key not in TOP_LEVEL]:
        if key in REMOVED_FROM_DEEPSPEED:
            yield f"{key}: no longer exists in DeepSpeed; remove it"
        else:
            yield f"{key}: unknown key{did_you_mean(key, ENGINE_KNOBS)}"
    for block, legal in BLOCKS.items():
        for key in [key for key in get_value(config, block) or {} if key not in legal]:
            if f"{block}.{key}" in REMOVED_FROM_DEEPSPEED:
                yield f"{block}.{key}: {REPLACED.get(f'{block}.{key}', 'no longer exists in DeepSpeed; remove it')}"
            else:
                yield f"{block}.{key}: unknown key{did_you_mean(key, legal)}"


def _owned_faults(config: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    """Removes from the config what belongs to the recipe; yields a fault for what contradicts it."""
    for key in ("bf16.enabled", "fp16.enabled"):  # checked by precision_faults
        pop_value(config, key)
    for faults in (batch_faults, clipping_faults, communication_faults, optimizer_faults, scheduler_faults):
        yield from faults(config, recipe)
    for key, reason in REFUSED.items():
        if pop_value(config, key) is not None:
            yield f"{key}: {reason}; remove it here"


def _zero_faults(config: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    zero = config["zero_optimization"]
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3) or not isinstance(stage, int):
        yield f"zero_optimization.stage: expected 0, 1, 2 or 3, got {shown(stage)}"
        return
    if stage == 3 and recipe.model.has_quantized_base:
        yield (
            "zero_optimization.stage: 3 divides weights among the ranks, and quantized ones (model.lora.quantize_base) "
            "cannot be divided; set engine.deepspeed to null or zero2, or quantize_base=none"
        )
    for block, lowest in (("offload_param", 3), ("offload_optimizer", 1)):
        device = (zero.get(block) or {}).get("device", "none")
        if device == "nvme":
            yield f"zero_optimization.{block}.device: checkpoints cannot include what is on nvme; write cpu"
        elif device not in ("none", "auto") and stage < lowest:
            yield f"zero_optimization.{block}: needs stage {lowest} or above, got stage {stage}"


def _with_recipe(config: Mapping[str, Any], recipe: Recipe, open_to: Sequence[str]) -> dict[str, Any]:
    return {
        **config,
        # The training loop forms micro-batches and tells DeepSpeed where a step ends; DeepSpeed never counts rows here.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Always set, because DeepSpeed 0.19 clips at 1.0 by default.
        "gradient_clipping": recipe.optim.max_grad_norm,
        # DeepSpeed would add up micro-batches in the precision of the weights: at 256 of them in bf16, 2 % off.
        "data_types": {"grad_accum_dtype": "fp32", **config.get("data_types", {})},
        "bf16": {**config.get("bf16", {}), "enabled": _enabled("bf16", recipe, open_to)},
        "fp16": {**config.get("fp16", {}), "enabled": _enabled("fp16", recipe, open_to)},
        # Our AdamW is torch's: DeepSpeed would refuse it under ZeRO, and require its own if the optimizer is offloaded.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
    }


def _enabled(precision: str, recipe: Recipe, open_to: Sequence[str]) -> bool | str:
    """Whether the recipe, or else the ds_config, chooses this precision; "auto" until the ranks have agreed, before
    DeepSpeed is initialized."""
    chosen: str = recipe.engine.precision
    if chosen == "auto" and len(open_to) == 1:
        (chosen,) = open_to
    return "auto" if chosen == "auto" else chosen == precision


def _file(name_or_path: str) -> Path:
    if not is_path(name_or_path):
        return FOLDER / f"{name_or_path}.json"
    return expand_home(name_or_path)


def _source(name_or_path: str) -> str:
    return name_or_path if is_path(name_or_path) else f"ds_configs/{name_or_path}.json"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"{key} is given twice; keep one of them")
        values[key] = value
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
