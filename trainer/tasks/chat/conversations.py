"""What a row says, from each of the formats that people keep conversations in: messages, in chat templates' words.

A row's columns tell its format. Whatever is wrong with a row is said in one go, and in the words of its format.
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
"""`role` (system, user, assistant or tool), `content` (a text), and what templates read besides: `tool_calls`, …"""

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
"""What else of a message goes to the template, if it is a text."""
LISTS = {"messages": ("messages",), "sharegpt": ("conversations", "conversation")}
ASKED = ("prompt", "question", "query")
ANSWERED = ("completion", "response", "answer", "reply")
KEYS: dict[str, tuple[str, ...]] = {**LISTS, "alpaca": ("instruction",), "prompt_completion": ASKED}
"""The formats, and the columns that tell them; the first one that is there decides."""
EXPECTED = "messages; conversations; instruction and output; prompt and completion"
COLUMNS = (*(name for its in KEYS.values() for name in its), "input", "history", "system", "tools", "functions")
"""The columns that what is asked stands in."""
DEEPEST = 40
"""Levels that tools and arguments may be nested; a recursive template filter would overflow far below."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The messages of a row, and how much each counts in the loss."""

    messages: list[Message]
    weights: list[float]
    """0 for all but the assistant's messages, which have 1 where nothing else is said."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of what the assistant may call."""


def format_of(values: Mapping[str, Any]) -> str | None:
    """The name of the row's format; None if no column tells it."""
    filled = [name for name, value in values.items() if value is not None]
    for columns in (filled, values):
        for format_, names in KEYS.items():
            if any(name in columns for name in names):
                return format_
    return None


def read_conversation(row: Row, faults: Faults, *, format_: str = "auto", answered: bool = True) -> Conversation | None:
    """The row's conversation; None if faults were added instead.

    Rows that are not answered yet need no reply, and lose the ones that they end with.
    """
    known = format_of(row.values) if format_ == "auto" else format_
    if known is None:
        faults.add(row, f"no conversation in it; expected {EXPECTED}; found: {', '.join(row.columns) or 'nothing'}")
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
    """A conversation while it is read, and what was found wrong with it."""

    messages: list[Message] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    faults: list[str] = field(default_factory=list)

    def add(self, role: str, content: str, weight: float | None = None, **more: Any) -> None:
        self.messages.append({"role": role, "content": content, **more})
        self.weights.append((1.0 if weight is None else weight) if role == "assistant" else 0.0)

    def add_list(self, value: Any, column: str, *, word: str = "message", weight: float | None = None) -> None:
        """The messages of a list; a weight that is given here is every one's."""
        if not isinstance(value, list) or not value:
            example = '{"role": "user", "content": "…"}'
            self.faults.append(f"{column}: expected a list of messages such as {example}, got {_short(value)}")
            return
        for number, its in enumerate(value, start=1):
            self._add_one(its, f"{word} {number}", weight)

    def _add_one(self, its: Any, where: str, weight: float | None) -> None:
        if not isinstance(its, Mapping):
            self.faults.append(f"{where}: expected an object with role and content, got {_short(its)}")
            return
        by_speaker = its.get("role") is None and its.get("from") is not None
        key, roles = ("from", SPEAKERS) if by_speaker else ("role", ROLES)
        named = its.get(key)
        role = roles.get(named) if isinstance(named, str) else None
        if role is None:
            what = f"no {key}" if named is None else f"{key} {_short(named)} is unknown"
            self.faults.append(f"{where}: {what}; legal: {', '.join(roles)}")
            return
        content = its.get("value" if by_speaker else "content")
        before = len(self.faults)
        own_weight = self._weight(its.get("weight"), role, where)
        calls = self._calls(its.get("tool_calls"), its.get("function_call"), where)
        if role == "function_call":
            role, calls, content = "assistant", self._called(content, where), ""
        text = self._content(content, f"{where} ({role})", optional=bool(calls))
        if len(self.faults) == before and not text.strip() and not calls and role in ("user", "assistant"):
            needed = "a reply is a text or tool calls" if role == "assistant" else "there is nothing to answer"
            self.faults.append(f"{where} ({role}) is empty; {needed}")
        more = {name: its[name] for name in KEPT if isinstance(its.get(name), str) and _is_writable(its[name])}
        self.add(
            role, text, own_weight if weight is None else weight, **more, **({"tool_calls": calls} if calls else {})
        )

    def text(self, value: Any, where: str, *, optional: bool = False) -> str:
        """A text; where it is optional, what is missing is an empty one."""
        if value is None and optional:
            return ""
        if not isinstance(value, str):
            self.faults.append(f"no {where}" if value is None else f"{where}: expected a text, got {_short(value)}")
            return ""
        if not _is_writable(value):
            self.faults.append(f"{where}: holds half of a surrogate pair, which is no character: {_short(value)}")
            return ""
        return value

    def _content(self, value: Any, where: str, *, optional: bool) -> str:
        if not isinstance(value, list):
            if isinstance(value, str | None):
                return self.text(value, f"content of {where}", optional=optional)
            self.faults.append(f"{where}: expected a text, or a list of parts of text, got {_short(value)}")
            return ""
        parts = []
        for part in value:
            if isinstance(part, Mapping) and part.get("type", "text") in ("text", "input_text", "output_text"):
                parts.append(self.text(part.get("text"), f"text in a part of {where}"))
            elif isinstance(part, str):
                parts.append(self.text(part, f"a part of {where}"))
            else:
                legal = '{"type": "text", "text": "…"}'
                self.faults.append(f"{where}: a part that is no text, {_short(part)}; legal: {legal}")
        return "".join(parts)

    def _weight(self, value: Any, role: str, where: str) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
            self.faults.append(f"{where}: weight: expected a number, at least 0, got {_short(value)}")
            return None
        if value and role not in ("assistant", "function_call"):
            self.faults.append(f"{where}: a weight on a message of role {role}; only the assistant's are learned")
        return float(value)

    def _calls(self, given: Any, legacy: Any, where: str) -> list[dict[str, Any]]:
        """`tool_calls` or, older, `function_call`, with their arguments as an object, as templates want them."""
        if given is None and legacy is not None:
            given = [legacy]
        if given is None:
            return []
        if not isinstance(given, list):
            self.faults.append(f"{where}: tool_calls: expected a list of calls, got {_short(given)}")
            return []
        return [call for its in given if (call := self._call(its, where)) is not None]

    def _call(self, its: Any, where: str) -> dict[str, Any] | None:
        function = its.get("function", its) if isinstance(its, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if function is None or not isinstance(name, str) or not name.strip() or not _is_writable(name):
            legal = '{"function": {"name": "…", "arguments": {…}}}'
            self.faults.append(f"{where}: a tool call that is none, {_short(its)}; expected {legal}")
            return None
        arguments = {} if function.get("arguments") in (None, "") else function["arguments"]
        if isinstance(arguments, str):
            arguments = _from_json(arguments)
        if not isinstance(arguments, dict) or not _is_json(arguments):
            got = _short(function.get("arguments"))
            self.faults.append(f"{where}: arguments of {name}: expected an object, or the JSON text of one, got {got}")
            return None
        identity = {"id": its["id"]} if isinstance(its.get("id"), str) and _is_writable(its["id"]) else {}
        return {**identity, "type": "function", "function": {"name": name, "arguments": arguments}}

    def _called(self, value: Any, where: str) -> list[dict[str, Any]]:
        """The calls that a ShareGPT function_call writes out."""
        its = _from_json(value) if isinstance(value, str) else value
        calls = its if isinstance(its, list) else [its]
        if not calls or not all(isinstance(call, Mapping) for call in calls):
            legal = '{"name": "…", "arguments": {…}}'
            self.faults.append(f"{where}: function_call: expected the JSON text of {legal}, got {_short(value)}")
            return []
        return self._calls(calls, None, where)

    def add_history(self, value: Any) -> None:
        """Earlier rounds, as pairs of what was asked and answered."""
        if value is None:
            return
        if not isinstance(value, list) or not all(isinstance(its, list) and len(its) == 2 for its in value):
            self.faults.append(f"history: expected a list of pairs [asked, answered], got {_short(value)}")
            return
        for number, (asked, answered) in enumerate(value, start=1):
            for role, text in (("user", asked), ("assistant", answered)):
                its = self.text(text, f"history {number} ({role})")
                if isinstance(text, str) and not text.strip():
                    self.faults.append(f"history {number} ({role}) is empty")
                self.add(role, its)

    def add_common(self, values: Mapping[str, Any]) -> None:
        """What rows of every format may have: `system` and `tools` beside their messages."""
        system = self.text(values.get("system"), "system", optional=True)
        if system:
            if self.messages and self.messages[0]["role"] == "system":
                self.faults.append("two system texts: the column `system`, and message 1; keep one of them")
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
        """Checks the whole, once each message is well-formed."""
        if not answered:
            while self.messages and self.messages[-1]["role"] == "assistant":
                self.messages.pop()
                self.weights.pop()
        if not self.messages:
            self.faults.append("nothing is asked in it")
        elif self.messages[0]["role"] == "assistant":
            self.faults.append("message 1 is the assistant's, and answers nothing; begin with a user's or a system's")
        elif answered and all(message["role"] != "assistant" for message in self.messages):
            self.faults.append("no reply in it; an assistant's message is what is learned")


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
        # Of what is given as the prompt nothing is learned, not even what the assistant says in it.
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
            reading.faults.append(f"{name}: no message of the assistant's in it")
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
    """The first of these columns with something in it, or else the first that is there, or else our own name."""
    given = [name for name in names if values.get(name) is not None]
    return [*given, *(name for name in names if name in values), names[0]][0]


def _is_tool(tool: Any) -> bool:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _is_writable(text: str) -> bool:
    """Whether UTF-8 can write it: JSON allows half a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_json(value: Any) -> bool:
    """Whether all of its texts can be written, and it is not nested beyond reason."""
    level = [value]
    for _ in range(DEEPEST):
        texts = [its for its in level if isinstance(its, str)]
        texts += [key for its in level if isinstance(its, Mapping) for key in its]
        if not all(map(_is_writable, texts)):
            return False
        if any(isinstance(its, float) and not math.isfinite(its) for its in level):
            return False
        inner = (list(its.values()) if isinstance(its, Mapping) else its for its in level)
        level = [child for its in inner if isinstance(its, list) for child in its]
        if not level:
            return True
    return False


def _from_json(text: str) -> Any:
    """None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_repr: Any = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def _short(value: Any) -> str:
    """As much of the value as helps to find it."""
    return f"{_repr.repr(value):.80}"
