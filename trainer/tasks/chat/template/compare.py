"""Compares rendered texts with the messages that they shall contain and with each other, and says how they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence

BREAK = "\U000f3a7c"
"""A private character within each special token of a message that is plain text, until the text is tokenized."""


class TurnError(ValueError):
    """Why the chat template cannot render a conversation, or not in a form that can be learned from."""


class UnstableError(TurnError):
    """Why the replies of a conversation cannot be learned together: the template renders one of them differently when
    more follows, or prompts for it with another text than it renders."""


def squeezed(text: str) -> str:
    """The text without white space and without what marks escaped special tokens."""
    return "".join(text.replace(BREAK, "").split())


def is_in(content: str, squeezed_text: str) -> bool:
    """Whether the text contains it, ignoring white space and JSON escapes: templates trim texts and may write JSON."""
    if squeezed(content) in squeezed_text:
        return True
    return squeezed(json.dumps(content, ensure_ascii=False)[1:-1]) in squeezed_text


def shared_length(texts: Sequence[str]) -> int:
    """The length of the longest text with which all of these begin."""
    pairs = enumerate(zip(*texts, strict=False))
    return next((at for at, characters in pairs if len({*characters}) > 1), min(map(len, texts)))


def difference(one: str, other: str) -> tuple[str, str]:
    """Both texts from a little before the point where they differ."""
    at = shared_length([one, other])
    start = max(0, at - 20)
    return one[start : at + 40], other[start : at + 40]


def unlike_prompt(at: int, prompt: str, whole: str, cure: str = "") -> UnstableError:
    """The error for a reply that the template prompts for with another text than it renders."""
    asked, rendered = difference(prompt, whole)
    cure = cure or "set task.template_arguments, or choose another template with task.chat_template"
    return UnstableError(
        f"message {at + 1}: the chat template prompts for a reply with {asked!r}, but renders it with {rendered!r}; "
        f"{cure}"
    )
