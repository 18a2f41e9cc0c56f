"""The precision that a ds_config names, beside engine.precision."""

from collections.abc import Iterator, Mapping
from typing import Any

from shardtune.ds_config.nested import get_value
from shardtune.recipe.explain import shown

PRECISIONS = ("bf16", "fp16", "fp32")
"""In order of preference."""


def precisions_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The precisions that a ds_config leaves to choose from, best first; empty if it contradicts itself.

    If it turns one off and does not mention the other, both are off, as DeepSpeed reads it.
    """
    given = {name: get_value(config, f"{name}.enabled") for name in ("bf16", "fp16")}
    named = tuple(name for name, enabled in given.items() if enabled is True)
    if named:
        return named if len(named) == 1 else ()
    if False not in given.values():
        return PRECISIONS
    return (*(name for name, enabled in given.items() if enabled == "auto"), "fp32")


def precision_faults(config: Mapping[str, Any], precision: str) -> Iterator[str]:
    """A fault for each value of bf16.enabled and fp16.enabled that contradicts engine.precision, or the other one."""
    given = {name: get_value(config, f"{name}.enabled") for name in ("bf16", "fp16")}
    wrong = {
        name: value for name, value in given.items() if not isinstance(value, bool) and value not in (None, "auto")
    }
    for name, enabled in wrong.items():
        yield f'{name}.enabled: expected true, false or "auto", got {shown(enabled)}'
    if wrong:
        return
    if not precisions_of(config):
        yield "bf16.enabled and fp16.enabled are both true; keep one of them"
    elif precision != "auto":
        for name, enabled in given.items():
            if enabled in (True, False) and enabled != (name == precision):
                yield (
                    f"{name}.enabled: is {shown(enabled)}, but engine.precision is {precision} in the recipe; set "
                    'engine.precision=auto, or write "auto" here'
                )
