"""One reply of a conversation as it will be asked for: its prompt, and what the model shall write after it.

Many templates prompt for a reply with another text than they later render around it: they drop the thoughts of earlier
replies, move the system text to the newest question, or add empty thoughts. What follows the assistant's header is the
reply in any case. Where the header ends is found by rendering other replies in the place of this one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from shardtune.trainer.tasks.chat.conversations import Conversation, Message
from shardtune.trainer.tasks.chat.template.compare import TurnError, is_in, shared_length, squeezed, unlike_prompt
from shardtune.trainer.tasks.chat.template.rendering import Rendering
from shardtune.trainer.tasks.chat.template.thoughts import (
    NO_THOUGHTS,
    OPEN,
    shows_thoughts,
    split_thoughts,
    without_thoughts,
)

MARK = "q7Xz"
"""A reply that occurs in no template and no vocabulary, to see what surrounds it."""
OTHER_MARK = "Zx7q"

CLOSED = re.compile(r"(?:</[\w:.-]*(?:think|thought|reason)[\w:.-]*>|\[/THINK\]|<channel\|>)\s*\Z")
"""Ends a prompt after which a reply has no thoughts."""
MOST_IN_FRONT = 200
"""Characters within which an answer begins: empty thoughts are short."""
PROMPT_FOR_THOUGHTS = "set task.template_arguments to prompt for thoughts, often {enable_thinking: true}"


class _Parts(NamedTuple):
    """A prompt, and a reply as the template renders it."""

    prompt: str
    reply: str
    more: str
    """What the prompt has after the assistant's header, and the rendered reply has not."""


def render_apart(
    rendering: Rendering, conversation: Conversation, at: int, *, keeps_thoughts: bool = False, is_probe: bool = False
) -> tuple[str, str]:
    """The prompt for message `at`, and the reply with the end of its turn.

    Raises TurnError if they do not fit together, or if the template rejects the conversation.
    With keeps_thoughts, thoughts that the template drops are put in front of the answer. With is_probe, the reply is
    not meant to be learned.
    """
    message = conversation.messages[at]
    parts = _parts(rendering, conversation, at, message)
    thoughts, answer = split_thoughts(message)
    are_shown = shows_thoughts(message, parts.reply)
    if keeps_thoughts and thoughts and not are_shown:
        parts = _parts(rendering, conversation, at, without_thoughts(message))
        return parts.prompt, _with_thoughts(parts, thoughts, answer, at)
    if not parts.more.strip() or (is_probe and parts.more.strip() == OPEN):
        return parts.prompt, parts.reply
    is_answer_alone = squeezed(parts.reply).startswith(squeezed(answer)) and not are_shown
    if NO_THOUGHTS.fullmatch(parts.more) is None or not is_answer_alone:
        cure = ""
        if thoughts:
            opens = parts.more.strip() == OPEN
            cure = "set task.thoughts=keep" if opens else f"{PROMPT_FOR_THOUGHTS}, or set task.thoughts=drop"
        raise unlike_prompt(at, parts.prompt, _whole(rendering, conversation, at, message), cure)
    return parts.prompt, parts.reply


def _parts(rendering: Rendering, conversation: Conversation, at: int, message: Message) -> _Parts:
    prompt = rendering.render(conversation.messages[:at], conversation.tools, ask=True)
    whole = _whole(rendering, conversation, at, message)
    if whole.startswith(prompt):
        return _Parts(prompt, whole[len(prompt) :], "")
    marked = [
        _whole(rendering, conversation, at, {"role": "assistant", "content": mark}) for mark in (MARK, OTHER_MARK)
    ]
    # No header ends later than here: the renderings of different replies begin to differ.
    limit = shared_length([whole, *marked])
    before = rendering.render(conversation.messages[:at], conversation.tools, ask=False)
    if prompt.startswith(before) and whole.startswith(before):
        end = min(limit, shared_length([prompt, whole]))
        return _Parts(prompt, whole[end:], prompt[end:])
    found = _end_of_shared(prompt, whole[:limit], conversation.messages[at - 1])
    if found is None:
        raise unlike_prompt(at, prompt, whole)
    return _Parts(prompt, whole[found:], "")


def _whole(rendering: Rendering, conversation: Conversation, at: int, message: Message) -> str:
    return rendering.render([*conversation.messages[:at], message], conversation.tools, ask=False)


def _end_of_shared(prompt: str, rendered: str, last: Message) -> int | None:
    """Where in the rendered text the end of the prompt ends, from the last message on; None if it is not in it."""
    longest, least = 0, len(prompt)
    while longest < least:  # bisected: of two ends of the prompt, the shorter one is in it if the longer one is
        length = (longest + least + 1) // 2
        longest, least = (length, least) if prompt[-length:] in rendered else (longest, length - 1)
    content = last["content"]
    if not longest or not content.strip() or not is_in(content, squeezed(prompt[-longest:])):
        return None
    return rendered.rindex(prompt[-longest:]) + longest


def _with_thoughts(parts: _Parts, thoughts: str, answer: str, at: int) -> str:
    """The reply with its thoughts in front of the answer, after what the prompt has of them already."""
    where = f"message {at + 1}: task.thoughts=keep:"
    start = _start_of(answer, parts.reply)
    if start is None or NO_THOUGHTS.fullmatch(parts.reply[:start]) is None:
        raise TurnError(f"{where} the answer is not found in {parts.reply!r:.80}; set task.thoughts=drop")
    opened = parts.prompt.rstrip().endswith(OPEN)
    if (parts.more.strip() and not opened) or CLOSED.search(parts.prompt):
        raise TurnError(
            f"{where} the chat template prompts for a reply without thoughts, by {parts.prompt[-40:]!r}; "
            f"{PROMPT_FOR_THOUGHTS}, or set task.thoughts=drop"
        )
    space = parts.reply[:start] if not parts.reply[:start].strip() else ""
    if opened:
        thoughts = thoughts.lstrip().removeprefix(OPEN)
        thoughts = thoughts.lstrip() if parts.prompt[-1:].isspace() else thoughts
        space = ""
    return f"{space}{thoughts}{parts.reply[start:]}"


def _start_of(answer: str, reply: str) -> int | None:
    """Where the answer begins, which the template may have put after empty thoughts; None if it is not found."""
    if not answer.strip():  # a tool call alone
        empty = NO_THOUGHTS.match(reply)
        return empty.end() if empty else 0
    wanted = squeezed(answer)
    starts = (at for at, character in enumerate(reply[:MOST_IN_FRONT]) if not character.isspace())
    return next((at for at in starts if squeezed(reply[at:]).startswith(wanted)), None)
