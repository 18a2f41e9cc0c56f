"""What a ds_config made for another tool holds besides settings: comments, old names, what changes nothing here.

Each function changes the config in place and returns what it did, for the one notice about the file.
"""

from collections.abc import Iterator
from typing import Any

from shardtune.ds_config.keys import (
    AUTO_OF_DEEPSPEED,
    DONE_ANYWAY,
    IGNORED,
    REFUSED,
    REMOVED_FROM_DEEPSPEED,
    RENAMED,
)
from shardtune.ds_config.nested import get_value, pop_value, put_value

_MISSING = object()
_NOT_GIVEN: tuple[object, ...] = (None, False, "auto", 0)
"""The values of a setting that is turned off; 0 stands for False in files of other tools."""


def drop_comments(config: dict[str, Any]) -> list[str]:
    """Remove the keys that other tools read as comments, at any depth; return them."""
    dropped = []
    for key in list(config):
        if key.startswith(("_", "//", "#", "$")) or key.lower() in ("comment", "comments"):
            del config[key]
            dropped.append(key)
        elif isinstance(config[key], dict):
            dropped += [f"{key}.{inner}" for inner in drop_comments(config[key])]
    return dropped


def rename_old_keys(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Replace the names that DeepSpeed no longer has, or deprecates; return (what was renamed, faults)."""
    renamed, faults = [], []
    zero = config.get("zero_optimization")
    if isinstance(zero, bool):
        config["zero_optimization"] = {"stage": int(zero)}
        renamed.append(f"zero_optimization: {str(zero).lower()} to stage {int(zero)}")
    for old, new in RENAMED.items():
        value = pop_value(config, old, _MISSING)
        if value is _MISSING:
            continue
        if get_value(config, new, _MISSING) not in (_MISSING, value):
            faults.append(f"{old}: is the old name of {new}, which is set too; keep one of them")
            continue
        put_value(config, new, value)
        renamed.append(f"{old.rpartition('.')[2]} to {new.rpartition('.')[2]}")
    offloads, offload_faults = _rename_offloads(config)
    return renamed + offloads, faults + offload_faults


def _rename_offloads(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Turn cpu_offload, cpu_offload_param and cpu_offload_use_pin_memory into blocks, as DeepSpeed's own code does."""
    zero = config.get("zero_optimization")
    if not isinstance(zero, dict):
        return [], []
    renamed, faults = [], []
    pinned = zero.pop("cpu_offload_use_pin_memory", None)
    for old, new in (("cpu_offload", "offload_optimizer"), ("cpu_offload_param", "offload_param")):
        value = zero.pop(old, None)
        if value not in (None, True, False):
            faults.append(f"zero_optimization.{old}: expected true or false, got {value!r}")
        elif value and zero.get(new) is not None:
            faults.append(f"zero_optimization.{old}: is the old form of {new}, which is set too; keep one of them")
        elif value:
            zero[new] = {"device": "cpu"} | ({} if pinned is None else {"pin_memory": pinned})
            renamed.append(f"{old} to {new}")
    return renamed, faults


def drop_what_changes_nothing(config: dict[str, Any]) -> dict[str, list[str]]:
    """Remove the keys of IGNORED, and refused or removed ones that turn nothing on; return reason -> keys."""
    dropped: dict[str, list[str]] = {}
    for key, reason in IGNORED.items():
        if pop_value(config, key, _MISSING) is not _MISSING:
            dropped.setdefault(reason, []).append(key)
    for key in (*REFUSED, *REMOVED_FROM_DEEPSPEED):
        value = get_value(config, key, _MISSING)
        if value is not _MISSING and _changes_nothing(key, value):
            pop_value(config, key)
            dropped.setdefault("says what shardtune does in any case", []).append(key)
    return dropped


def _changes_nothing(key: str, value: Any) -> bool:
    """Whether a value of a refused key asks for nothing, or for what is done in any case."""
    if value in DONE_ANYWAY.get(key, ()):
        return True
    return _is_off(value) and not (key in DONE_ANYWAY and value is False)


def _is_off(value: Any) -> bool:
    if not isinstance(value, dict):
        return not isinstance(value, list) and value in _NOT_GIVEN
    enabled = value.get("enabled", _MISSING)
    if enabled is not _MISSING:
        return enabled in (False, "auto")
    return all(_is_off(inner) for inner in value.values())


def drop_autos(config: dict[str, Any]) -> list[str]:
    """Remove each "auto" that nothing else has replaced, so that DeepSpeed's default applies; return their keys."""
    dropped = [key for key in _autos(config) if key not in AUTO_OF_DEEPSPEED and key != "zero_optimization.stage"]
    for key in dropped:
        pop_value(config, key)
    return dropped


def _autos(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if value == "auto":
            yield prefix + name
        elif isinstance(value, dict):
            yield from _autos(value, f"{prefix}{name}.")
