"""A chat template: how a conversation becomes a text, or why it cannot."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shardtune.trainer.tasks.chat.conversations import THOUGHTS, Message
from shardtune.trainer.tasks.chat.template.compare import BREAK, TurnError
from shardtune.trainer.tasks.chat.template.template_date import fixed_date
from shardtune.trainer.tasks.chat.template.thoughts import CLOSE, OPEN, field_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WRITTEN_OUT = (json.dumps(BREAK)[1:-1], repr(BREAK)[1:-1])
FIRST_USER = "task.system_turn=first_user puts the system text in front of the first question"


class Rendering:
    """The texts that a tokenizer's chat template makes of messages."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any], *, system_turn: str | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._arguments = dict(arguments)
        self._system_turn = system_turn
        self.escaped: re.Pattern[str] | None = None
        """The special tokens that are plain text in messages; None if there are none."""

    def render(self, messages: Sequence[Message], tools: Any, *, ask: bool) -> str:
        """The text of these messages; with `ask`, and the header of the reply to them. Raises TurnError."""
        if self.escaped is not None:
            messages = [self._escaped_message(message) for message in messages]
            tools = self._escaped(tools, self.escaped)
        try:
            text = self._apply(self._shaped(messages), tools, ask=ask)
        except TurnError as error:
            if self._allows_first_user(messages, tools, ask=ask):
                raise TurnError(f"{error}; {FIRST_USER}") from error
            raise
        if self.escaped is not None and any(written in text for written in WRITTEN_OUT):
            raise TurnError("the chat template writes special tokens within JSON; remove them from the tool calls")
        return text

    def omission_cure(self, message: Message) -> str:
        """What to do if this message is omitted; empty if only another template helps."""
        return f"; {FIRST_USER}" if message["role"] == "system" and self._system_turn is None else ""

    def _apply(self, messages: Sequence[Message], tools: Any, *, ask: bool) -> str:
        from jinja2 import TemplateError

        try:
            with fixed_date(self._arguments):
                text: Any = self._tokenizer.apply_chat_template(
                    list(messages), tools=tools, add_generation_prompt=ask, tokenize=False, **self._arguments
                )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # A template is third-party code, which may fail on a conversation in any of these ways.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise TurnError(f"the chat template rejects the conversation: {lines[0]}") from error
        return str(text)

    def _allows_first_user(self, messages: Sequence[Message], tools: Any, *, ask: bool) -> bool:
        """Whether the template renders messages that it has rejected, if it gets no system turn."""
        if self._system_turn is not None or not messages or messages[0]["role"] != "system":
            return False
        try:
            self._apply(in_first_user(messages), tools, ask=ask)
        except TurnError:
            return False
        return True

    def _shaped(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages as this template reads them."""
        if self._system_turn == "first_user":
            messages = in_first_user(messages)
        return [self._with_thoughts(message) for message in messages]

    def _with_thoughts(self, message: Message) -> Message:
        thoughts = field_of(message) if message["role"] == "assistant" else ""
        return message | dict.fromkeys(self._thought_names, thoughts) if thoughts else message

    @cached_property
    def _thought_names(self) -> list[str]:
        """The keys of thoughts that the template reads."""
        template = str(self._tokenizer.chat_template)
        return [name for name in THOUGHTS if re.search(rf"\b{name}\b", template)]

    def _escaped_message(self, message: Message) -> Message:
        assert self.escaped is not None, "called only to escape"
        pattern = self.escaped
        if message["role"] == "assistant" and (OPEN in pattern.pattern or CLOSE in pattern.pattern):
            pattern = re.compile(f"(?!{OPEN}|{CLOSE})(?:{pattern.pattern})")  # thoughts may be in special tokens
        return {key: value if key == "role" else self._escaped(value, pattern) for key, value in message.items()}

    def _escaped(self, value: Any, pattern: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            if BREAK in value:
                raise TurnError(f"a text contains U+{ord(BREAK):X}, a private character that escaping uses; remove it")
            while pattern.search(value):
                value = pattern.sub(lambda found: f"{found.group()[0]}{BREAK}{found.group()[1:]}", value)
            return value
        if isinstance(value, Mapping):
            return {self._escaped(key, pattern): self._escaped(item, pattern) for key, item in value.items()}
        return [self._escaped(item, pattern) for item in value] if isinstance(value, list) else value


def in_first_user(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages with the system text at the beginning in front of the first user's text."""
    if not messages or messages[0]["role"] != "system":
        return messages
    system, rest = messages[0]["content"], list(messages[1:])
    at = next((at for at, message in enumerate(rest) if message["role"] == "user"), None)
    if at is None:
        return messages
    rest[at] = {**rest[at], "content": f"{system}\n\n{rest[at]['content']}"}
    return rest
