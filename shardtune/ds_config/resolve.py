"""Merges a ds_config with the recipe: the recipe owns what is learned, the ds_config how it is computed.

DeepSpeed ignores top-level keys that it does not know; here they are refused. DeepSpeed itself is not imported.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shardtune.ds_config.keys import (
    AUTO_OF_DEEPSPEED,
    BLOCKS,
    ENGINE_KNOBS,
    OWNED_BY_RECIPE,
    REFUSED,
    REMOVED_FROM_DEEPSPEED,
    SCHEDULERS,
    TOP_LEVEL,
)
from shardtune.errors import ConfigError
from shardtune.recipe.explain import did_you_mean, shown
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import FOLDER, is_path, not_a_strategy, strategies


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


def resolve_ds_config(base: Mapping[str, Any], recipe: Recipe, *, hidden_size: int | None) -> dict[str, Any]:
    """Return the ds_config for DeepSpeed: the engine settings of `base` and the recipe's values, without "auto".

    `hidden_size` fills the three "auto" of zero_optimization that depend on it, as transformers does; if it is None
    they are removed, and DeepSpeed's defaults apply. Raises one ConfigError with a line for each fault.
    """
    config = copy.deepcopy(dict(base))
    faults = [*_shape_faults(config)]
    if not faults:
        faults += [*_unknown_faults(config), *_owned_faults(config, recipe), *_zero_faults(config)]
        _fill_sizes(config["zero_optimization"], hidden_size)
        faults += [
            f'{key}: "auto" is not supported here; write a value, or remove the key'
            for key in _autos(config)
            if key not in AUTO_OF_DEEPSPEED and key.partition(".")[0] in TOP_LEVEL
        ]
    if faults:
        assert recipe.engine.deepspeed is not None, "a recipe without DeepSpeed has no ds_config"
        source = _source(recipe.engine.deepspeed)
        raise ConfigError("\n".join(f"{source}: {' '.join(fault.splitlines())}" for fault in dict.fromkeys(faults)))
    return _with_recipe(config, recipe)


def ds_config_of(recipe: Recipe, *, hidden_size: int | None) -> dict[str, Any] | None:
    """Return the ds_config for a recipe, or None without DeepSpeed. Raises ConfigError as the functions above."""
    if recipe.engine.deepspeed is None:
        return None
    return resolve_ds_config(load_ds_config(recipe.engine.deepspeed), recipe, hidden_size=hidden_size)


def stage_of(recipe: Recipe) -> int:
    """The ZeRO stage of a recipe; 0 if nothing is sharded. Raises ConfigError."""
    return 0 if recipe.engine.deepspeed is None else zero_stage(load_ds_config(recipe.engine.deepspeed))


def zero_stage(ds_config: Mapping[str, Any]) -> int:
    """The ZeRO stage of a ds_config; 0 if it sets none."""
    return int(ds_config.get("zero_optimization", {}).get("stage", 0))


def sharding_name(stage: int | None) -> str:
    """`ZeRO-2` for stage 2; `replicated` for None, a run without DeepSpeed."""
    return "replicated" if stage is None else f"ZeRO-{stage}"


def _shape_faults(config: dict[str, Any]) -> Iterator[str]:
    """Faults for blocks that are not objects, whose contents cannot be checked."""
    config.setdefault("zero_optimization", {})
    for block in (*BLOCKS, "optimizer", "scheduler"):
        value = _get(config, block, {})
        if not isinstance(value, dict) and not (value is None and "." in block):
            yield f"{block}: expected an object, got {shown(value)}"


def _unknown_faults(config: Mapping[str, Any]) -> Iterator[str]:
    for key in [key for key in config if key not in TOP_LEVEL]:
        if key in REMOVED_FROM_DEEPSPEED:
            yield f"{key}: no longer exists in DeepSpeed; remove it"
        else:
            yield f"{key}: unknown key{did_you_mean(key, ENGINE_KNOBS)}"
    for block, legal in BLOCKS.items():
        for key in [key for key in _get(config, block, None) or {} if key not in legal]:
            if f"{block}.{key}" in REMOVED_FROM_DEEPSPEED:
                yield f"{block}.{key}: no longer exists in DeepSpeed; remove it"
            else:
                yield f"{block}.{key}: unknown key{did_you_mean(key, legal)}"


def _owned_faults(config: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    """Removes from the config what agrees with the recipe; yields a fault for what does not."""
    for key, owner in OWNED_BY_RECIPE.items():
        if (value := _pop(config, key)) not in (None, "auto"):
            yield f'{key}: is set by {owner} in the recipe, got {shown(value)}; remove it here, or write "auto"'
    for key, reason in REFUSED.items():
        if _pop(config, key) is not None:
            yield f"{key}: {reason}; remove it here"
    optimizer, scheduler = config.pop("optimizer", {}), config.pop("scheduler", {})
    if optimizer and not (_is_auto(optimizer) and str(optimizer.get("type")).lower() in ("adam", "adamw")):
        yield 'optimizer: is set by optim.* in the recipe; remove it here, or write AdamW with every value "auto"'
    if scheduler:
        schedule = SCHEDULERS.get(str(scheduler.get("type")).lower())
        if not _is_auto(scheduler) or schedule is None:
            yield (
                "scheduler: is set by optim.schedule in the recipe; remove it here, or write WarmupDecayLR (linear), "
                'WarmupLR (constant) or WarmupCosineLR (cosine) with every value "auto"'
            )
        elif schedule != recipe.optim.schedule:
            yield (
                f"scheduler: {scheduler['type']} means schedule {schedule}, but optim.schedule is "
                f"{recipe.optim.schedule}; remove it here"
            )


def _is_auto(block: Mapping[str, Any]) -> bool:
    params = block.get("params", {})
    return block.keys() <= {"type", "params"} and isinstance(params, dict) and all(v == "auto" for v in params.values())


def _zero_faults(config: Mapping[str, Any]) -> Iterator[str]:
    zero = config["zero_optimization"]
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3) or not isinstance(stage, int):
        yield f"zero_optimization.stage: expected 0, 1, 2 or 3, got {shown(stage)}"
        return
    for block, lowest in (("offload_param", 3), ("offload_optimizer", 1)):
        device = (zero.get(block) or {}).get("device", "none")
        if device == "nvme":
            yield f"zero_optimization.{block}.device: checkpoints cannot include what is on nvme; write cpu"
        elif device not in ("none", "auto") and stage < lowest:
            yield f"zero_optimization.{block}: needs stage {lowest} or above, got stage {stage}"


def _fill_sizes(zero: dict[str, Any], hidden_size: int | None) -> None:
    # The formulas of transformers.integrations.deepspeed, so that a ds_config means the same in both.
    for key, size in (
        ("reduce_bucket_size", lambda hidden: hidden * hidden),
        ("stage3_prefetch_bucket_size", lambda hidden: int(0.9 * hidden * hidden)),
        ("stage3_param_persistence_threshold", lambda hidden: 10 * hidden),
    ):
        if zero.get(key) == "auto":
            if hidden_size is None:
                del zero[key]
            else:
                zero[key] = size(hidden_size)


def _autos(value: Any, key: str = "") -> Iterator[str]:
    if value == "auto":
        yield key
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _autos(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _autos(inner, f"{key}[{number}]")


def _with_recipe(config: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    return {
        **config,
        # The training loop forms micro-batches and tells DeepSpeed where a step ends; DeepSpeed never counts rows here.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Always set, because DeepSpeed 0.19 clips at 1.0 by default.
        "gradient_clipping": recipe.optim.max_grad_norm,
        "bf16": {**config.get("bf16", {}), "enabled": _enabled("bf16", recipe)},
        "fp16": {**config.get("fp16", {}), "enabled": _enabled("fp16", recipe)},
        # Our AdamW is torch's: DeepSpeed would refuse it under ZeRO, and require its own if the optimizer is offloaded.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
    }


def _enabled(precision: str, recipe: Recipe) -> bool | str:
    """Whether the recipe chooses this precision; "auto" until the ranks have agreed, before DeepSpeed is
    initialized."""
    return "auto" if recipe.engine.precision == "auto" else recipe.engine.precision == precision


def _file(name_or_path: str) -> Path:
    if not is_path(name_or_path):
        return FOLDER / f"{name_or_path}.json"
    try:
        return Path(name_or_path).expanduser()
    except RuntimeError:  # an unknown ~user
        return Path(name_or_path)


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


def _get(config: Mapping[str, Any], key: str, default: Any) -> Any:
    value: Any = config
    for step in key.split("."):
        if not isinstance(value, dict) or step not in value:
            return default
        value = value[step]
    return value


def _pop(config: dict[str, Any], key: str) -> Any:
    outer, _, name = key.rpartition(".")
    block = _get(config, outer, {}) if outer else config
    return block.pop(name, None)
