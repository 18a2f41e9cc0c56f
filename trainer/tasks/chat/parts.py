"""The content of a message as a list of parts: texts, thoughts and tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shardtune.trainer.tasks.chat.json_values import is_writable, short

TEXTS = ("text", "input_text", "output_text")
THOUGHTS = ("reasoning", "thinking", "thought", "reasoning_text")
CALLS = ("tool_call", "tool_use", "function_call")
LEGAL = '{"type": "text", "text": "…"}, or a part of type reasoning or tool_call'


class Content(NamedTuple):
    """What the parts of a message are put together to."""

    text: str
    thoughts: str
    calls: list[Any]
    """As in `tool_calls`, not yet checked."""


def read_parts(parts: Sequence[Any], where: str, faults: list[str]) -> Content:
    """The content of a message with these parts; adds to its faults."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Any] = []
    for part in parts:
        kind = (part.get("type") or "text") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            texts.append(_checked(part, f"a part of {where}", faults))
        elif kind in TEXTS:
            texts.append(_checked(_first(part, ("text", "value")), f"text in a part of {where}", faults))
        elif kind in THOUGHTS:
            names = (str(kind), "text", "reasoning", "thinking", "value", "content")
            thoughts.append(_checked(_first(part, names), f"text in a {kind} part of {where}", faults))
        elif kind in CALLS:
            calls.append(_call(part))
        else:
            faults.append(f"{where}: a part is not a text: {short(part)}; legal: {LEGAL}")
    return Content("".join(texts), "\n".join(thoughts), calls)


def _call(part: Mapping[str, Any]) -> Any:
    """The call of a part, as in `tool_calls`: the part itself or what is in it, with `input` or `args` for arguments."""
    inner = _first(part, ("function", "tool_call", "tool_use", "function_call"))
    call = inner if isinstance(inner, Mapping) else part
    if isinstance(call.get("function"), Mapping):
        call = call["function"]
    arguments = _first(call, ("arguments", "input", "args", "parameters"))
    return {"id": part.get("id"), "function": {"name": call.get("name"), "arguments": arguments}}


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _checked(value: Any, where: str, faults: list[str]) -> str:
    if isinstance(value, str) and is_writable(value):
        return value
    if value is None:
        faults.append(f"no {where}")
    elif isinstance(value, str):
        faults.append(f"{where}: contains an unpaired surrogate, which is not a character: {short(value)}")
    else:
        faults.append(f"{where}: expected a text, got {short(value)}")
    return ""
