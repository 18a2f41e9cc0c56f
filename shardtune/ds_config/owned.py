"""Values of a ds_config that the recipe sets: taken where both agree, a fault where they contradict.

Each function removes its keys from the config, because resolve_ds_config writes the recipe's values.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from shardtune.ds_config.keys import SCHEDULERS
from shardtune.ds_config.nested import pop_value
from shardtune.recipe.explain import shown
from shardtune.recipe.schema import Recipe

_OPTIMIZER_IS = {"torch_adam": None, "adam_w_mode": True, "bias_correction": True, "amsgrad": False}
"""Parameter of DeepSpeed's Adam -> the value it has in shardtune; None where it does not matter."""
_SCHEDULER_IS = {"warmup_min_lr": 0, "warmup_min_ratio": 0, "warmup_type": "linear", "last_batch_iteration": -1}
_REMOVE = 'remove it here, or write "auto"'


def batch_faults(config: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    """A fault for each number of rows that contradicts the recipe.

    How a step is cut into passes does not matter if train_batch_size agrees; without it, only the 1 that DeepSpeed is
    given in any case does.
    """
    keys = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    given = {key: value for key in keys if (value := pop_value(config, key)) not in (None, "auto")}
    rows, tokens = recipe.train.global_batch_size, recipe.train.global_batch_tokens
    wrong = {key: value for key, value in given.items() if not _is_number(value) or value < 1 or value % 1}
    for key, value in wrong.items():
        yield f'{key}: expected a whole number above 0 or "auto", got {shown(value)}'
    if wrong:
        return
    total = given.pop("train_batch_size", None)
    if total is not None and tokens is not None:
        yield (
            f"train_batch_size: is {shown(total)}, but train.global_batch_tokens is {tokens} in the recipe; {_REMOVE}"
        )
    elif total is not None and total != rows:
        yield _contradiction("train_batch_size", total, "train.global_batch_size", rows)
    elif total is None:
        for key in [key for key, value in given.items() if value != 1]:
            yield (
                f"{key}: the rows of a step are set by train.global_batch_size ({rows} over all ranks), those of a "
                f"pass by train.micro_batch_tokens; got {shown(given[key])}; {_REMOVE}"
            )


def clipping_faults(config: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    """A fault if gradient_clipping contradicts optim.max_grad_norm."""
    yield from _disagreements(config, "", {"gradient_clipping": ("optim.max_grad_norm", recipe.optim.max_grad_norm)})


def communication_faults(config: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    """A fault if communication_data_type contradicts the recipe; with engine.communication_data_type: auto it stays."""
    key, value = "communication_data_type", recipe.engine.communication_data_type
    if value != "auto":
        given = config.get(key)
        ours = {key: (f"engine.{key}", value)}
        yield from _disagreements({key: given.lower() if isinstance(given, str) else given}, "", ours)
        config[key] = value


def optimizer_faults(config: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    """A fault for each value of the `optimizer` block that contradicts the recipe."""
    optimizer, optim = config.pop("optimizer", None) or {}, recipe.optim
    if not optimizer:
        return
    kind, params = optimizer.pop("type", None), optimizer.pop("params", {})
    optimizer = {key: value for key, value in optimizer.items() if value not in (False, "auto")}  # legacy_fusion
    if str(kind).lower() not in ("adam", "adamw") or optimizer or not isinstance(params, dict):
        yield (
            "optimizer: is set by optim.* in the recipe (optim.kind: adamw); remove it here, or write AdamW with its "
            'params equal to the recipe\'s or "auto"'
        )
        return
    ours = {
        "lr": ("optim.lr", optim.lr),
        "betas": ("optim.betas", list(optim.betas)),
        "eps": ("optim.eps", optim.eps),
        "weight_decay": ("optim.weight_decay", optim.weight_decay),
        "max_grad_norm": ("optim.max_grad_norm", optim.max_grad_norm),
    }
    yield from _disagreements(params, "optimizer.params.", ours)
    yield from _others(params, "optimizer.params.", _OPTIMIZER_IS, "optim.*")


def scheduler_faults(config: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    """A fault for each value of the `scheduler` block that contradicts the recipe."""
    scheduler, optim = config.pop("scheduler", None) or {}, recipe.optim
    if not scheduler:
        return
    schedule, params = SCHEDULERS.get(str(scheduler.get("type")).lower()), scheduler.get("params", {})
    if schedule is None or not isinstance(params, dict) or scheduler.keys() - {"type", "params"}:
        yield (
            "scheduler: is set by optim.schedule in the recipe; remove it here, or write WarmupDecayLR (linear), "
            'WarmupLR (constant) or WarmupCosineLR (cosine) with its params equal to the recipe\'s or "auto"'
        )
        return
    if schedule != optim.schedule:
        yield (
            f"scheduler: {scheduler['type']} means schedule {schedule}, but optim.schedule is {optim.schedule}; "
            f"set optim.schedule={schedule}, or remove it here"
        )
    warmup = optim.warmup_steps if optim.warmup_fraction is None else f"{optim.warmup_fraction:g} of all steps"
    ours = {
        "warmup_max_lr": ("optim.lr", optim.lr),
        "warmup_num_steps": ("optim.warmup_steps", warmup or 0),
        "total_num_steps": ("train.max_steps", recipe.train.max_steps),
        "cos_min_ratio": ("optim.min_lr_ratio", optim.min_lr_ratio),
    }
    yield from _disagreements(params, "scheduler.params.", ours)
    yield from _others(params, "scheduler.params.", _SCHEDULER_IS, "optim.*")


def _disagreements(block: dict[str, Any], prefix: str, ours: Mapping[str, tuple[str, Any]]) -> Iterator[str]:
    for key, (owner, value) in ours.items():
        given = block.pop(key, None)
        if given not in (None, "auto") and (isinstance(given, bool) or given != value):
            yield _contradiction(prefix + key, given, owner, value)


def _others(block: Mapping[str, Any], prefix: str, known: Mapping[str, Any], owner: str) -> Iterator[str]:
    """A fault for each value left that is neither "auto" nor what shardtune does."""
    for key, value in block.items():
        if value == "auto" or (key in known and known[key] in (None, value)):
            continue
        yield f"{prefix}{key}: is set by {owner} in the recipe, got {shown(value)}; {_REMOVE}"


def _contradiction(key: str, given: Any, owner: str, value: Any) -> str:
    ours = "not set" if value is None else json.dumps(value)
    return f'{key}: is {json.dumps(given)}, but {owner} is {ours} in the recipe; make them equal, or write "auto" here'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
