"""What data sets and other tools write into messages: names of roles, and contents that are lists of parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shardtune.trainer.tasks.chat.json_values import is_writable, short

USUAL = {
    "role": frozenset({"system", "developer", "user", "assistant", "tool", "function"}),
    "from": frozenset(
        {"system", "human", "user", "gpt", "assistant", "chatgpt", "bing", "bard", "model", "tool", "function"}
        | {"observation", "function_response", "tool_response", "function_call", "tool_call"}
    ),
}
"""The names that need no mention, by the key that they are under: OpenAI's and ShareGPT's own."""

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot", "ai"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("ipython", "tool_result"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
}
"""The role that each name stands for, in lower case. A function_call is a message of the assistant."""


def role_of(name: str, own: Mapping[str, str]) -> str | None:
    """The role that a name stands for, by the recipe's `own` names first, whatever its capitals; None if unknown."""
    plain = name.strip().lower()
    return next((role for known, role in own.items() if known.strip().lower() == plain), ROLES.get(plain))


LEGAL_ROLES = "system, user, assistant, tool, and their names elsewhere (human, gpt, model, bot, …)"
"""The names that are read, for messages."""

TEXTS = ("text", "input_text", "output_text")
THOUGHTS = ("reasoning", "thinking", "thought", "reasoning_text")
CALLS = ("tool_call", "tool_use", "function_call")
LEGAL_PARTS = '{"type": "text", "text": "…"}, or a part of type reasoning or tool_call'


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
            faults.append(f"{where}: a part is not a text: {short(part)}; legal: {LEGAL_PARTS}")
    return Content("".join(texts), "\n".join(thoughts), calls)


def _call(part: Mapping[str, Any]) -> Any:
    """The call of a part as in `tool_calls`: the part itself or what is in it; its arguments may be called `input`."""
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
