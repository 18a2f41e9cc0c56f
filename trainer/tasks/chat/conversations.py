"""Reads conversations from the common formats into messages, as chat templates expect them.

A row's columns determine its format. All faults of a row are reported at once, in terms of its format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from shardtune.rows.source import Faults, Row
from shardtune.trainer.tasks.chat.json_values import from_json, is_json, is_writable, short, without_nulls
from shardtune.trainer.tasks.chat.messages import LEGAL_ROLES, USUAL, Content, read_parts, role_of

Message = dict[str, Any]
"""`role` (system, user, assistant or tool), `content` (a text), and other keys that templates read: `tool_calls`, …"""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""The keys that data sets and templates have for the thoughts before a reply."""
KEPT = ("name", "tool_call_id", *THOUGHTS)
"""Other keys of a message that the template gets, if they are texts."""
LISTS = {"messages": ("messages",), "sharegpt": ("conversations", "conversation")}
ASKED = ("prompt", "question", "query")
ANSWERED = ("completion", "response", "answer", "reply")
KEYS: dict[str, tuple[str, ...]] = {**LISTS, "alpaca": ("instruction",), "prompt_completion": ASKED}
"""The formats and the columns that determine them; the first one present decides."""
EXPECTED = "messages; conversations; instruction and output; prompt and completion"
COLUMNS = (*(name for names in KEYS.values() for name in names), "input", "history", "system", "tools", "functions")
"""The columns that the prompt is read from."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The messages of a row, and the weight of each in the loss."""

    messages: list[Message]
    weights: list[float]
    """0 for all but the assistant's messages, which have 1 if no weight is given."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the tools that the assistant may call."""
    renamed: tuple[tuple[str, str], ...] = ()
    """For each message whose role has a name that is not its format's own: the name and the role."""


def format_of(values: Mapping[str, Any]) -> str | None:
    """The name of the row's format; None if no column determines it."""
    filled = [name for name, value in values.items() if value is not None]
    for columns in (filled, values):
        for format_, names in KEYS.items():
            if any(name in columns for name in names):
                return format_
    return None


def read_conversation(
    row: Row,
    faults: Faults,
    *,
    format_: str = "auto",
    answered: bool = True,
    roles: Mapping[str, str] | None = MappingProxyType({}),
) -> Conversation | None:
    """The row's conversation, or None if it has faults, which are added.

    With answered=False no reply is needed, and replies at the end are dropped. `roles` are names of roles besides the
    known ones; None accepts any name, as a user's.
    """
    known = format_of(row.values) if format_ == "auto" else format_
    if known is None:
        faults.add(row, f"not a conversation: expected {EXPECTED}; found: {', '.join(row.columns) or 'nothing'}")
        return None
    reading = _Reading(roles)
    READERS[known](reading, row.values, answered)
    reading.add_common(row.values)
    if not reading.faults:
        reading.finish(answered=answered)
    for fault in reading.faults:
        faults.add(row, fault)
    if reading.faults:
        return None
    return Conversation(
        messages=reading.messages, weights=reading.weights, tools=reading.tools, renamed=tuple(reading.renamed)
    )


@dataclass
class _Reading:
    """A conversation that is being read, and its faults so far."""

    roles: Mapping[str, str] | None
    """Names of roles besides the known ones; None accepts any."""
    messages: list[Message] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    faults: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)

    def add(self, role: str, content: str, weight: float | None = None, **more: Any) -> None:
        self.messages.append({"role": role, "content": content, **more})
        self.weights.append((1.0 if weight is None else weight) if role == "assistant" else 0.0)

    def add_list(self, value: Any, column: str, *, word: str = "message", weight: float | None = None) -> None:
        """Adds the messages of a list; `weight`, if given, overrides the weight of each."""
        if not isinstance(value, list) or not value:
            example = '{"role": "user", "content": "…"}'
            self.faults.append(f"{column}: expected a list of messages such as {example}, got {short(value)}")
            return
        for number, message in enumerate(value, start=1):
            self._add_one(message, f"{word} {number}", weight)

    def _add_one(self, message: Any, where: str, weight: float | None) -> None:
        if not isinstance(message, Mapping):
            self.faults.append(f"{where}: expected an object with role and content, got {short(message)}")
            return
        by_speaker = message.get("role") is None and message.get("from") is not None
        role = self._role(message, "from" if by_speaker else "role", where)
        if role is None:
            return
        before = len(self.faults)
        own_weight = self._own_weight(message, role, where)
        value = message.get("value" if by_speaker else "content")
        calls = self._calls(message.get("tool_calls"), message.get("function_call"), where)
        if role == "function_call":
            role, calls, value = "assistant", self._called(value, where), ""
        content = self._content(value, f"{where} ({role})", optional=bool(calls))
        calls += self._calls(content.calls or None, None, where)
        if content.thoughts and role != "assistant":
            self.faults.append(f"{where} ({role}): a part with thoughts; only assistant messages have them")
        if len(self.faults) == before and not content.text.strip() and not calls and role in ("user", "assistant"):
            needed = "a reply needs a text or tool calls" if role == "assistant" else "there is nothing to answer"
            self.faults.append(f"{where} ({role}) is empty; {needed}")
        more: dict[str, Any] = {THOUGHTS[0]: content.thoughts} if content.thoughts else {}
        more |= {
            name: message[name] for name in KEPT if isinstance(message.get(name), str) and is_writable(message[name])
        }
        more |= {"tool_calls": calls} if calls else {}
        self.add(role, content.text, own_weight if weight is None else weight, **more)

    def _role(self, message: Mapping[str, Any], key: str, where: str) -> str | None:
        """The role of a message that names it under this key; None if it names none that is known, which is a fault."""
        name = message.get(key)
        role = role_of(name, self.roles or {}) if isinstance(name, str) else None
        if role is None and isinstance(name, str) and self.roles is None:
            return "user"
        if role is None:
            what = f"no {key}" if name is None else f"{key} {short(name)} is unknown"
            cure = (
                f". Say what it is: task.roles={{{name[:40]}: user}}" if isinstance(name, str) and name.strip() else ""
            )
            self.faults.append(f"{where}: {what}; legal: {LEGAL_ROLES}{cure}")
        elif name not in USUAL[key] and name not in (self.roles or {}):
            self.renamed.append((str(name), "assistant" if role == "function_call" else role))
        return role

    def _own_weight(self, message: Mapping[str, Any], role: str, where: str) -> float | None:
        """The weight of a message, under either of its names."""
        named = {name: self._weight(message.get(name), role, where, name) for name in ("weight", "loss_weight")}
        given = {name: weight for name, weight in named.items() if weight is not None}
        if len({*given.values()}) > 1:
            both = " and ".join(f"{name} {weight:g}" for name, weight in given.items())
            self.faults.append(f"{where}: {both} are two names for the weight of a message; keep one")
        return next(iter(given.values()), None)

    def text(self, value: Any, where: str, *, optional: bool = False) -> str:
        """The value as a text; an empty one if it is missing and optional. Other values are faults."""
        if value is None and optional:
            return ""
        if not isinstance(value, str):
            self.faults.append(f"no {where}" if value is None else f"{where}: expected a text, got {short(value)}")
            return ""
        if not is_writable(value):
            self.faults.append(f"{where}: contains an unpaired surrogate, which is not a character: {short(value)}")
            return ""
        return value

    def _content(self, value: Any, where: str, *, optional: bool) -> Content:
        if isinstance(value, list):
            return read_parts(value, where, self.faults)
        if not isinstance(value, str | None):
            self.faults.append(f"{where}: expected a text or a list of text parts, got {short(value)}")
            return Content("", "", [])
        return Content(self.text(value, f"content of {where}", optional=optional), "", [])

    def _weight(self, value: Any, role: str, where: str, name: str) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
            self.faults.append(f"{where}: {name}: expected a number from 0 to 1,000,000, got {short(value)}")
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
            self.faults.append(f"{where}: tool_calls: expected a list of calls, got {short(given)}")
            return []
        return [call for item in given if (call := self._call(item, where)) is not None]

    def _call(self, call: Any, where: str) -> dict[str, Any] | None:
        function = (call.get("function") or call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if function is None or not isinstance(name, str) or not name.strip() or not is_writable(name):
            legal = '{"function": {"name": "…", "arguments": {…}}}'
            self.faults.append(f"{where}: not a tool call: {short(call)}; expected {legal}")
            return None
        arguments = {} if function.get("arguments") in (None, "") else function["arguments"]
        # A null in a JSON text was written there; one in an object may be Arrow's.
        arguments = from_json(arguments) if isinstance(arguments, str) else without_nulls(arguments)
        if not isinstance(arguments, dict) or not is_json(arguments):
            got = short(function.get("arguments"))
            self.faults.append(f"{where}: arguments of {name}: expected an object or its JSON text, got {got}")
            return None
        identity = {"id": call["id"]} if isinstance(call.get("id"), str) and is_writable(call["id"]) else {}
        return {**identity, "type": "function", "function": {"name": name, "arguments": arguments}}

    def _called(self, value: Any, where: str) -> list[dict[str, Any]]:
        """The calls that a ShareGPT function_call contains."""
        parsed = from_json(value) if isinstance(value, str) else value
        calls = parsed if isinstance(parsed, list) else [parsed]
        if not calls or not all(isinstance(call, Mapping) for call in calls):
            legal = '{"name": "…", "arguments": {…}}'
            self.faults.append(f"{where}: function_call: expected the JSON text of {legal}, got {short(value)}")
            return []
        return self._calls(calls, None, where)

    def add_history(self, value: Any) -> None:
        """Adds earlier rounds, which are pairs of question and answer."""
        if value is None:
            return
        if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
            self.faults.append(f"history: expected a list of pairs [question, answer], got {short(value)}")
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
        tools = from_json(given) if isinstance(given, str) else without_nulls(given)
        if not isinstance(tools, list) or not all(_is_tool(tool) for tool in tools) or not is_json(tools):
            legal = '{"type": "function", "function": {"name": "…", "parameters": {…}}}'
            self.faults.append(f"tools: expected a list of JSON schemas such as {legal}, got {short(given)}")
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
