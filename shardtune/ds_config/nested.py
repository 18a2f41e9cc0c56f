"""Reading and removing the values of nested JSON objects by dotted keys, such as `zero_optimization.stage`."""

from collections.abc import Mapping
from typing import Any


def get_value(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Return the value of a dotted key, or `default` if there is none."""
    value: Any = config
    for step in key.split("."):
        if not isinstance(value, dict) or step not in value:
            return default
        value = value[step]
    return value


def pop_value(config: dict[str, Any], key: str, default: Any = None) -> Any:
    """Remove the value of a dotted key and return it, or `default` if there is none."""
    outer, _, name = key.rpartition(".")
    block = get_value(config, outer) if outer else config
    return block.pop(name, default) if isinstance(block, dict) else default


def put_value(config: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key whose block exists."""
    outer, _, name = key.rpartition(".")
    block = get_value(config, outer) if outer else config
    block[name] = value
