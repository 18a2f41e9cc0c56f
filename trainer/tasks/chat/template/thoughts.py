"""Thoughts: what a reply says in <think> tags, or in a field of its own, before its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from shardtune.trainer.tasks.chat.conversations import THOUGHTS, Conversation, Message
from shardtune.trainer.tasks.chat.template.compare import squeezed

OPEN, CLOSE = "<think>", "</think>"

NO_THOUGHTS = re.compile(
    r"\s*(?:<(?P<tag>[\w:.-]+)>\s*</(?P=tag)>|</[\w:.-]+>"
    r"|\[(?P<word>\w+)\]\s*\[/(?P=word)\]|<\|channel>thought\s*<channel\|>)?\s*"
)
"""What a template puts after the assistant's header so that the model does not think: thoughts that are closed, such as
`<think></think>`."""


def field_of(message: Mapping[str, Any]) -> str:
    """The thoughts that a message has in a field of their own; empty if it has none."""
    return next((message[name] for name in THOUGHTS if message.get(name, "").strip()), "")


def split_thoughts(message: Mapping[str, Any]) -> tuple[str, str]:
    """The thoughts of a message in their tags, up to the answer, and the answer; the first is empty without thoughts.

    Both together are the content, unless the thoughts are in a field.
    """
    content: str = message["content"]
    if content.lstrip().startswith(OPEN) and CLOSE in content:
        answer = content.rpartition(CLOSE)[2].lstrip()
        return content[: len(content) - len(answer)], answer
    thoughts = field_of(message)
    return (f"{OPEN}\n{thoughts.strip()}\n{CLOSE}\n\n" if thoughts else ""), content


def without_thoughts(message: Message) -> Message:
    """The message with its answer alone."""
    if message["role"] != "assistant":
        return message
    kept = {name: value for name, value in message.items() if name not in THOUGHTS}
    return {**kept, "content": split_thoughts(message)[1]}


def drop_thoughts(conversation: Conversation) -> Conversation:
    """The conversation without thoughts; nothing is learned of a reply that has nothing else."""
    messages = [without_thoughts(message) for message in conversation.messages]
    weights = [
        0.0
        if message["role"] == "assistant" and not message["content"].strip() and "tool_calls" not in message
        else weight
        for message, weight in zip(messages, conversation.weights, strict=False)
    ]
    return replace(conversation, messages=messages, weights=weights)


def count_thoughts(messages: Sequence[Message]) -> int:
    """How many replies have thoughts."""
    return sum(bool(split_thoughts(message)[0]) for message in messages if message["role"] == "assistant")


def shows_thoughts(message: Message, reply: str) -> bool:
    """Whether the thoughts of a message are in its rendered reply, in front of the answer."""
    thoughts, answer = split_thoughts(message)
    inner = squeezed(thoughts).removeprefix(OPEN).removesuffix(CLOSE)
    before = squeezed(reply)
    if answer.strip():
        before = before.rpartition(squeezed(answer))[0]
    return bool(inner) and inner in before
