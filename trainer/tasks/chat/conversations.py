"""Reads conversations from the common formats into messages, as chat templates expect them.

A row's columns determine its format. All faults of a row are reported at once, in terms of its format.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shardtune.rows.source import Faults, Row

Message = dict[str, Any]
"""`role` (system, user, assistant or tool), `content` (a text), and other keys that templates read: `tool_calls`, …"""

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
SPEAKERS = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
}
KEPT = ("name", "tool_call_id", "reasoning_content", "reasoning", "thinking")
"""Other keys of a message that the template gets, if they are texts."""
LISTS = {"messages": ("messages",), "sharegpt": ("conversations", "conversation")}
ASKED = ("prompt", "question", "query")
ANSWERED = ("completion", "response", "answer", "reply")
KEYS: dict[str, tuple[str, ...]] = {**LISTS, "alpaca": ("instruction",), "prompt_completion": ASKED}
"""The formats and the columns that determine them; the first one present decides."""
EXPECTED = "messages; conversations; instruction and output; prompt and completion"
COLUMNS = (*(name for names in KEYS.values() for name in names), "input", "history", "system", "tools", "functions")
"""The columns that the prompt is read from."""
DEEPEST = 40
"""The deepest nesting of tools and arguments; a recursive template filter overflows only far beyond it."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The messages of a row, and the weight of each in the loss."""

    messages: list[Message]
    weights: list[float]
    """0 for all but the assistant's messages, which have 1 if no weight is given."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the tools that the assistant may call."""


def format_of(values: Mapping[str, Any]) -> str | None:
    """The name of the row's format; None if no column determines it."""
    filled = [name for name, value in values.items() if value is not None]
    for columns in (filled, values):
        for format_, names in KEYS.items():
            if any(name in columns for name in names):
                return format_
    return None


def read_conversation(row: Row, faults: Faults, *, format_: str = "auto", answered: bool = True) -> Conversation | None:
    """The row's conversation, or None if it has faults, which are added.

    With answered=False no reply is needed, and replies at the end are dropped.
    """
    known = format_of(row.values) if format_ == "auto" else format_
    if known is None:
        faults.add(row, f"not a conversation: expected {EXPECTED}; found: {', '.join(row.columns) or 'nothing'}")
        return None
    reading = _Reading()
    READERS[known](reading, row.values, answered)
    reading.add_common(row.values)
    if not reading.faults:
        reading.finish(answered=answered)
    for fault in reading.faults:
        faults.add(row, fault)
    if reading.faults:
        return None
    return Conversation(messages=reading.messages, weights=reading.weights, tools=reading.tools)


@dataclass
class _Reading:
    """A conversation that is being read, and its faults so far."""

    messages: list[Message] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    faults: list[str] = field(default_factory=list)

    def add(self, role: str, content: str, weight: float | None = None, **more: Any) -> None:
        self.messages.append({"role": role, "content": content, **more})
        self.weights.append((1.0 if weight is None else weight) if role == "assistant" else 0.0)

    def add_list(self, value: Any, column: str, *, word: str = "message", weight: float | None = None) -> None:
        """Adds the messages of a list; `weight`, if given, overrides the weight of each."""
        if not isinstance(value, list) or not value:
            example = '{"role": "user", "content": "…"}'
            self.faults.append(f"{column}: expected a list of messages such as {example}, got {_short(value)}")
            return
        for number, message in enumerate(value, start=1):
            self._add_one(message, f"{word} {number}", weight)

    def _add_one(self, message: Any, where: str, weight: float | None) -> None:
        if not isinstance(message, Mapping):
            self.faults.append(f"{where}: expected an object with role and content, got {_short(message)}")
            return
        by_speaker = message.get("role") is None and message.get("from") is not None
        key, roles = ("from", SPEAKERS) if by_speaker else ("role", ROLES)
        named = message.get(key)
        role = roles.get(named) if isinstance(named, str) else None
        if role is None:
            what = f"no {key}" if named is None else f"{key} {_short(named)} is unknown"
            self.faults.append(f"{where}: {what}; legal: {', '.join(roles)}")
            return
        content = message.get("value" if by_speaker else "content")
        before = len(self.faults)
        own_weight = self._weight(message.get("weight"), role, where)
        calls = self._calls(message.get("tool_calls"), message.get("function_call"), where)
        if role == "function_call":
            role, calls, content = "assistant", self._called(content, where), ""
        text = self._content(content, f"{where} ({role})", optional=bool(calls))
        if len(self.faults) == before and not text.strip() and not calls and role in ("user", "assistant"):
            needed = "a reply needs a text or tool calls" if role == "assistant" else "there is nothing to answer"
            self.faults.append(f"{where} ({role}) is empty; {needed}")
        more = {
            name: message[name] for name in KEPT if isinstance(message.get(name), str) and _is_writable(message[name])
        }
        self.add(
            role, text, own_weight if weight is None else weight, **more, **({"tool_calls": calls} if calls else {})
        )

    def text(self, value: Any, where: str, *, optional: bool = False) -> str:
        """The value as a text; an empty one if it is missing and optional. Other values are faults."""
        if value is None and optional:
            return ""
        if not isinstance(value, str):
            self.faults.append(f"no {where}" if value is None else f"{where}: expected a text, got {_short(value)}")
            return ""
        if not _is_writable(value):
            self.faults.append(f"{where}: contains an unpaired surrogate, which is not a character: {_short(value)}")
            return ""
        return value

    def _content(self, value: Any, where: str, *, optional: bool) -> str:
        if not isinstance(value, list):
            if isinstance(value, str | None):
                return self.text(value, f"content of {where}", optional=optional)
            self.faults.append(f"{where}: expected a text or a list of text parts, got {_short(value)}")
            return ""
        parts = []
        for part in value:
            if isinstance(part, Mapping) and part.get("type", "text") in ("text", "input_text", "output_text"):
                parts.append(self.text(part.get("text"), f"text in a part of {where}"))
            elif isinstance(part, str):
                parts.append(self.text(part, f"a part of {where}"))
            else:
                legal = '{"type": "text", "text": "…"}'
                self.faults.append(f"{where}: a part is not a text: {_short(part)}; legal: {legal}")
        return "".join(parts)

    def _weight(self, value: Any, role: str, where: str) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
            self.faults.append(f"{where}: weight: expected a number from 0 to 1,000,000, got {_short(value)}")
            return None
        if value and role not in ("assistant", "function_call"):
            self.faults.append(f"{where}: a weight on a {role} message; only assistant messages are learned")
        return float(value)

    def _calls(self, given: Any, legacy: Any, where: str) -> list[dict[str, Any]]:
        """The calls in `tool_calls` or the older `function_call`, with arguments as objects, as templates expect."""
        if given is None and legacy is not None:
            given = [legacy]
        if given is None:
            return []
        if not isinstance(given, list):
            self.faults.append(f"{where}: tool_calls: expected a list of calls, got {_short(given)}")
            return []
        return [call for item in given if (call := self._call(item, where)) is not None]

    def _call(self, call: Any, where: str) -> dict[str, Any] | None:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if function is None or not isinstance(name, str) or not name.strip() or not _is_writable(name):
            legal = '{"function": {"name": "…", "arguments": {…}}}'
            self.faults.append(f"{where}: not a tool call: {_short(call)}; expected {legal}")
            return None
        arguments = {} if function.get("arguments") in (None, "") else function["arguments"]
        if isinstance(arguments, str):
            arguments = _from_json(arguments)
        if not isinstance(arguments, dict) or not _is_json(arguments):
            got = _short(function.get("arguments"))
            self.faults.append(f"{where}: arguments of {name}: expected an object or its JSON text, got {got}")
            return None
        identity = {"id": call["id"]} if isinstance(call.get("id"), str) and _is_writable(call["id"]) else {}
        return {**identity, "type": "function", "function": {"name": name, "arguments": arguments}}

    def _called(self, value: Any, where: str) -> list[dict[str, Any]]:
        """The calls that a ShareGPT function_call contains."""
        parsed = _from_json(value) if isinstance(value, str) else value
        calls = parsed if isinstance(parsed, list) else [parsed]
        if not calls or not all(isinstance(call, Mapping) for call in calls):
            legal = '{"name": "…", "arguments": {…}}'
            self.faults.append(f"{where}: function_call: expected the JSON text of {legal}, got {_short(value)}")
            return []
        return self._calls(calls, None, where)

    def add_history(self, value: Any) -> None:
        """Adds earlier rounds, which are pairs of question and answer."""
        if value is None:
            return
        if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
            self.faults.append(f"history: expected a list of pairs [question, answer], got {_short(value)}")
            return
        for number, (asked, answered) in enumerate(value, start=1):
            for role, text in (("user", asked), ("assistant", answered)):
                content = self.text(text, f"history {number} ({role})")
                if isinstance(text, str) and not text.strip():
                    self.faults.append(f"history {number} ({role}) is empty")
                self.add(role, content)

    def add_common(self, values: Mapping[str, Any]) -> None:
        """Adds `system` and `tools`, which rows of every format may have."""
        system = self.text(values.get("system"), "system", optional=True)
        if system:
            if self.messages and self.messages[0]["role"] == "system":
                self.faults.append("the system text is given twice, in column `system` and in message 1; keep one")
            self.messages.insert(0, {"role": "system", "content": system})
            self.weights.insert(0, 0.0)
        given = values.get("functions") if values.get("tools") is None else values["tools"]
        if given is None or given == "" or given == []:
            return
        tools = _from_json(given) if isinstance(given, str) else given
        if not isinstance(tools, list) or not all(_is_tool(tool) for tool in tools) or not _is_json(tools):
            legal = '{"type": "function", "function": {"name": "…", "parameters": {…}}}'
            self.faults.append(f"tools: expected a list of JSON schemas such as {legal}, got {_short(given)}")
            return
        self.tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]

    def finish(self, *, answered: bool) -> None:
        """Checks the conversation as a whole, once each message is well-formed."""
        if not answered:
            while self.messages and self.messages[-1]["role"] == "assistant":
                self.messages.pop()
                self.weights.pop()
        if not self.messages:
            self.faults.append("no message to reply to")
        elif self.messages[0]["role"] == "assistant":
            self.faults.append("message 1 is from the assistant; begin with a user or system message")
        elif answered and all(message["role"] != "assistant" for message in self.messages):
            self.faults.append("no assistant message; there is nothing to learn")


def _read_list(reading: _Reading, values: Mapping[str, Any], names: Sequence[str]) -> None:
    name = next((name for name in names if name in values), names[0])
    reading.add_list(values.get(name), name)


def _read_messages(reading: _Reading, values: Mapping[str, Any], answered: bool) -> None:
    _read_list(reading, values, LISTS["messages"])


def _read_sharegpt(reading: _Reading, values: Mapping[str, Any], answered: bool) -> None:
    _read_list(reading, values, LISTS["sharegpt"])


def _read_alpaca(reading: _Reading, values: Mapping[str, Any], answered: bool) -> None:
    before = len(reading.faults)
    instruction = reading.text(values.get("instruction"), "instruction")
    given = reading.text(values.get("input"), "input", optional=True)
    output = reading.text(values.get("output"), "output") if answered else None
    if len(reading.faults) == before:
        if not instruction.strip():
            reading.faults.append("instruction is empty; there is nothing to answer")
        if output is not None and not output.strip():
            reading.faults.append("output is empty; there is nothing to learn")
    reading.add_history(values.get("history"))
    reading.add("user", f"{instruction}\n{given}" if given.strip() else instruction)
    if output is not None:
        reading.add("assistant", output)


def _read_prompt_completion(reading: _Reading, values: Mapping[str, Any], answered: bool) -> None:
    reading.add_history(values.get("history"))
    asked = _first(values, ASKED)
    prompt = values.get(asked)
    if isinstance(prompt, list):
        # Nothing in the prompt is learned, not even its assistant messages.
        reading.add_list(prompt, asked, word=f"{asked} message", weight=0.0)
    else:
        text = reading.text(prompt, asked)
        if isinstance(prompt, str) and not prompt.strip():
            reading.faults.append(f"{asked} is empty; there is nothing to answer")
        reading.add("user", text)
    if not answered:
        return
    name = _first(values, ANSWERED)
    completion = values.get(name)
    if isinstance(completion, list):
        start = len(reading.messages)
        reading.add_list(completion, name, word=f"{name} message")
        if not reading.faults and all(message["role"] != "assistant" for message in reading.messages[start:]):
            reading.faults.append(f"{name}: no assistant message; there is nothing to learn")
        return
    text = reading.text(completion, name)
    if isinstance(completion, str) and not completion.strip():
        reading.faults.append(f"{name} is empty; there is nothing to learn")
    reading.add("assistant", text)


READERS: dict[str, Callable[[_Reading, Mapping[str, Any], bool], None]] = {
    "messages": _read_messages,
    "sharegpt": _read_sharegpt,
    "alpaca": _read_alpaca,
    "prompt_completion": _read_prompt_completion,
}


def _first(values: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of these columns that has a value, or else the first that exists, or else our own name."""
    given = [name for name in names if values.get(name) is not None]
    return [*given, *(name for name in names if name in values), names[0]][0]


def _is_tool(tool: Any) -> bool:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _is_writable(text: str) -> bool:
    """Whether UTF-8 can encode it: JSON allows unpaired surrogates, which no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_json(value: Any) -> bool:
    """Whether all its texts can be encoded, its numbers are finite, and it is nested at most DEEPEST levels."""
    level = [value]
    for _ in range(DEEPEST):
        texts = [item for item in level if isinstance(item, str)]
        texts += [key for item in level if isinstance(item, Mapping) for key in item]
        if not all(map(_is_writable, texts)):
            return False
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            return False
        inner = (list(item.values()) if isinstance(item, Mapping) else item for item in level)
        level = [child for item in inner if isinstance(item, list) for child in item]
        if not level:
            return True
    return False


def _from_json(text: str) -> Any:
    """The value of a JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_repr: Any = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def _short(value: Any) -> str:
    """The beginning of the value, enough to find it."""
    return f"{_repr.repr(value):.80}"
