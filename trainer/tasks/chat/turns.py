"""A conversation as the chat template writes it, and where the assistant speaks in it: found turn by turn, and checked.

For each reply the template is asked for the prompt before it, with the assistant's header, and for the conversation up
to it. What the second has more is the reply with its end of turn. Nothing is assumed of a template that is not checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from shardtune.errors import DataError
from shardtune.trainer.tasks.chat.conversations import Conversation, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "q7Xz"
"""A reply of no template's, and of no tokenizer's, to see what is written around it."""


class TurnError(ValueError):
    """A conversation that the chat template cannot write, or not so that it can be learned from; in words."""


class Turn(NamedTuple):
    """The texts of one reply."""

    message: int
    """Its number among the messages, from 0."""
    prompt: str
    """All before it, with the assistant's header."""
    whole: str
    """All up to its end of turn."""


class Reply(NamedTuple):
    """Where a reply is among the tokens, with its end of turn and without the header."""

    message: int
    start: int
    end: int


@dataclass(frozen=True)
class Written:
    """A conversation in tokens, up to the last reply that was asked for."""

    ids: list[int]
    replies: list[Reply]


class Turns:
    """A tokenizer's chat template. Raises DataError if no reply can be learned from what it writes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._arguments = dict(arguments)
        self._inserted = ""
        probe = Conversation(messages=[_says("user", "a"), _says("assistant", MARK)], weights=[0, 1])
        try:
            (turn,) = self.texts(probe, [1])
            before, _, _ = turn.whole.removeprefix(turn.prompt).partition(MARK)
            if before.strip():
                # An empty <think></think>, say: of the frame, and no more to be learned than the header.
                self._inserted = before
            (written,) = self.write([[turn]])
            if isinstance(written, TurnError):
                raise written
        except TurnError as error:
            raise DataError(f"model.path: the chat template cannot be learned from: {error}") from error
        self.end_of_turn: int = written.ids[-1]

    def texts(self, conversation: Conversation, learned: Sequence[int], known: Sequence[Turn] = ()) -> list[Turn]:
        """The texts of these replies, after the known ones; the last one's `whole` begins with all others.

        Raises TurnError if the template refuses the conversation, leaves out part of it, or writes earlier turns in
        another way once there are later ones.
        """
        messages, tools = conversation.messages, conversation.tools
        turns = list(known)
        for at in learned:
            prompt = self._render(messages[:at], tools, ask=True)
            whole = self._render(messages[: at + 1], tools, ask=False)
            if not whole.startswith(prompt):
                asked, written = _difference(prompt, whole)
                raise TurnError(
                    f"message {at + 1}: the chat template asks for a reply with {asked!r}, but writes it down with "
                    f"{written!r}; set task.template_arguments, or choose another template by task.chat_template"
                )
            said = whole[len(prompt) :]
            self._check_reply(at, messages[at], said)
            if self._inserted and said.startswith(self._inserted):
                prompt += self._inserted
            turns.append(Turn(at, prompt, whole.rstrip()))
        last = turns[-1]
        for turn in turns:
            if not last.whole.startswith(turn.whole):
                alone, later = _difference(turn.whole, last.whole)
                raise TurnError(
                    f"the chat template rewrites earlier turns: message {turn.message + 1} is written {alone!r} when "
                    f"it is said, and {later!r} once message {last.message + 1} is there. Set task.train_on=last, or "
                    "task.template_arguments, or choose another template by task.chat_template"
                )
        self._check_all_is_said(messages[: last.message + 1], tools, last.whole)
        return turns

    def write(self, conversations: Sequence[Sequence[Turn]]) -> list[Written | TurnError]:
        """Each one's tokens; what is wrong where they are not what the model would be asked with."""
        texts = [text for turns in conversations for turn in turns for text in (turn.prompt, turn.whole)]
        ids = iter(self._ids(texts))
        written: list[Written | TurnError] = []
        for turns in conversations:
            pairs = [(next(ids), next(ids)) for _ in turns]
            try:
                written.append(self._assemble(turns, pairs))
            except TurnError as error:
                written.append(error)
        return written

    def prompt(self, conversation: Conversation, max_tokens: int) -> list[int]:
        """What asks for the next reply; the oldest rounds are left out, but for a system text, until it fits.

        Raises TurnError if not even the last round does.
        """
        messages = conversation.messages
        first = next((at for at, message in enumerate(messages) if message["role"] != "system"), 0)
        rounds = [first, *(at for at in range(first + 1, len(messages)) if messages[at]["role"] == "user")]
        for start in rounds:
            kept = [*messages[:first], *messages[start:]]
            (ids,) = self._ids([self._render(kept, conversation.tools, ask=True) + self._inserted])
            if len(ids) <= max_tokens:
                return ids
        raise TurnError(f"its last round alone has {len(ids):,} tokens, and there is room for {max_tokens:,}")

    def _assemble(self, turns: Sequence[Turn], pairs: Sequence[tuple[list[int], list[int]]]) -> Written:
        ids = pairs[-1][1]
        replies = [
            Reply(turn.message, len(prompt), len(whole)) for turn, (prompt, whole) in zip(turns, pairs, strict=True)
        ]
        if any(ids[: len(its)] != its for pair in pairs for its in pair):
            ids, replies = self._in_pieces(turns, ids)
        for reply in replies:
            if ids[reply.end - 1] not in self._added_ids:
                raise TurnError(
                    f"message {reply.message + 1}: the chat template ends a reply with "
                    f"{self._tokenizer.decode(ids[reply.end - 1 : reply.end])!r}, which is no special token: the model "
                    "would not learn when to stop; choose another template by task.chat_template"
                )
        bos = self._tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise TurnError(f"it begins with {self._tokenizer.bos_token} twice; take it out of the chat template")
        return Written(ids, replies)

    def _in_pieces(self, turns: Sequence[Turn], joined: list[int]) -> tuple[list[int], list[Reply]]:
        """The same where the tokenizer joins a header with the reply after it: as it goes when the model is asked.

        Then the prompt's tokens are given, and the reply's come after them.
        """
        ids: list[int] = []
        replies = []
        done = 0
        for turn in turns:
            before, said = self._ids([turn.prompt[done:], turn.whole[len(turn.prompt) :]])
            start = len(ids) + len(before)
            ids += [*before, *said]
            replies.append(Reply(turn.message, start, len(ids)))
            done = len(turn.whole)
        if self._tokenizer.decode(ids) != self._tokenizer.decode(joined):
            raise TurnError(
                "the tokenizer joins the assistant's header with the beginning of a reply; take away the white space "
                "that a reply begins with"
            )
        return ids, replies

    def _render(self, messages: Sequence[Message], tools: Any, *, ask: bool) -> str:
        from jinja2 import TemplateError

        try:
            text: Any = self._tokenizer.apply_chat_template(
                list(messages), tools=tools, add_generation_prompt=ask, tokenize=False, **self._arguments
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # A template is a program of somebody else's, which may stumble over a conversation in any of these ways.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise TurnError(f"the chat template refuses it: {lines[0]}") from error
        return str(text)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text. What is between two special tokens is tokenized once, however many texts hold it.

        So the beginnings of a conversation take no longer than the whole.
        """
        pieces = [self._pieces(text) for text in texts]
        unique = list(dict.fromkeys(piece for its in pieces for piece in its))
        # Without special tokens of the tokenizer's own: the template has written them all.
        how = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        encoded = self._tokenizer(unique, **how)["input_ids"] if unique else []
        ids_of: dict[str, list[int]] = dict(zip(unique, encoded, strict=True))
        return [[token for piece in its for token in ids_of[piece]] for its in pieces]

    def _pieces(self, text: str) -> list[str]:
        """The text, cut before each special token: a tokenizer cuts there too, before it looks at anything else."""
        if self._special is None:
            return [text]
        starts = [0, *(match.start() for match in self._special.finditer(text)), len(text)]
        return [text[start:end] for start, end in pairwise(starts) if start < end]

    def _check_reply(self, at: int, message: Message, said: str) -> None:
        where = f"message {at + 1}"
        if not _is_in(message["content"], _squeezed(said)):
            raise TurnError(f"{where}: the chat template writes {said!r:.80} for the reply {message['content']!r:.80}")
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] not in said:
                raise TurnError(f"{where}: the chat template leaves out its call of {call['function']['name']}")

    def _check_all_is_said(self, messages: Sequence[Message], tools: Any, text: str) -> None:
        squeezed = _squeezed(text)
        for number, message in enumerate(messages, start=1):
            if not _is_in(message["content"], squeezed):
                raise TurnError(f"the chat template leaves out or changes message {number} ({message['role']})")
        for tool in tools or ():
            if not _is_in(tool["function"]["name"], squeezed):
                raise TurnError(
                    f"the chat template leaves out the tool {tool['function']['name']}; choose one that knows tools by "
                    "task.chat_template, or take the tools away"
                )
        for number, message in enumerate(messages, start=1):
            for token in self._control_tokens:
                if token in message["content"]:
                    what = "which the model would read as the frame of a turn"
                    raise TurnError(f"message {number} ({message['role']}) holds {token}, {what}; take it out")

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._tokenizer.added_tokens_decoder)

    @cached_property
    def _control_tokens(self) -> list[str]:
        """The special tokens that frame a turn, which no message may hold."""
        template = str(self._tokenizer.chat_template)
        own = (self._tokenizer.bos_token, self._tokenizer.eos_token)
        return [token for token in self._framing if token in own or token in template]

    @cached_property
    def _framing(self) -> list[str]:
        added = self._tokenizer.added_tokens_decoder.values()
        return [str(its) for its in added if its.special and str(its).strip() and not (its.lstrip or its.single_word)]

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        longest_first = sorted(self._framing, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _says(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _is_in(content: str, squeezed: str) -> bool:
    """Whether it is said, white space and JSON's escapes apart: templates trim texts, and write results as JSON."""
    if _squeezed(content) in squeezed:
        return True
    return _squeezed(json.dumps(content, ensure_ascii=False)[1:-1]) in squeezed


def _difference(one: str, other: str) -> tuple[str, str]:
    """Both from a little before they part."""
    pairs = enumerate(zip(one, other, strict=False))
    at = next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = max(0, at - 20)
    return one[start : at + 40], other[start : at + 40]
