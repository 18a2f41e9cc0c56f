"""Conversations as the chat template renders them, and where the assistant's replies are in them.

For each reply, the template renders the prompt before it, with the assistant's header, and the conversation including
it. The difference is the reply with its end of turn. Nothing is assumed of a template without being checked.
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
from shardtune.trainer.tasks.chat.template_date import date_note, fixed_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "q7Xz"
"""A reply that occurs in no template and no vocabulary, to see what surrounds it."""


class TurnError(ValueError):
    """Why the chat template cannot render a conversation, or not in a form that can be learned from."""


class Turn(NamedTuple):
    """The rendered texts of one reply."""

    message: int
    """The index of the message, from 0."""
    prompt: str
    """Everything before the reply, with the assistant's header."""
    whole: str
    """Everything up to the end of its turn."""


class Reply(NamedTuple):
    """The token positions of a reply, with its end of turn and without the header."""

    message: int
    start: int
    end: int


@dataclass(frozen=True)
class Written:
    """The tokens of a conversation, up to the last requested reply."""

    ids: list[int]
    replies: list[Reply]


class Turns:
    """A tokenizer's chat template. Raises DataError if replies cannot be learned from it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._arguments = dict(arguments)
        self.note = date_note(tokenizer.chat_template, arguments)
        self._inserted = ""
        probe = Conversation(messages=[_message("user", "a"), _message("assistant", MARK)], weights=[0, 1])
        try:
            (turn,) = self.texts(probe, [1])
            before, _, _ = turn.whole.removeprefix(turn.prompt).partition(MARK)
            if before.strip():
                # For example an empty <think></think>: like the header, it is not to be learned.
                self._inserted = before
            (written,) = self.write([[turn]])
            if isinstance(written, TurnError):
                raise written
        except TurnError as error:
            raise DataError(f"model.path: the chat template cannot be used for training: {error}") from error
        self.end_of_turn: int = written.ids[-1]

    def texts(self, conversation: Conversation, learned: Sequence[int], known: Sequence[Turn] = ()) -> list[Turn]:
        """The texts of these replies, after the known ones; each is a prefix of the last one's `whole`.

        Raises TurnError if the template rejects the conversation, omits a part of it, or renders earlier turns
        differently once there are later ones.
        """
        messages, tools = conversation.messages, conversation.tools
        turns = list(known)
        for at in learned:
            prompt = self._render(messages[:at], tools, ask=True)
            whole = self._render(messages[: at + 1], tools, ask=False)
            if not whole.startswith(prompt):
                asked, rendered = _difference(prompt, whole)
                raise TurnError(
                    f"message {at + 1}: the chat template prompts for a reply with {asked!r}, but renders it with "
                    f"{rendered!r}; set task.template_arguments, or choose another template with task.chat_template"
                )
            reply = whole[len(prompt) :]
            self._check_reply(at, messages[at], reply)
            if self._inserted and reply.startswith(self._inserted):
                prompt += self._inserted
            turns.append(Turn(at, prompt, whole.rstrip()))
        last = turns[-1]
        for turn in turns:
            if not last.whole.startswith(turn.whole):
                alone, later = _difference(turn.whole, last.whole)
                raise TurnError(
                    f"the chat template rewrites earlier turns: message {turn.message + 1} is rendered as {alone!r} "
                    f"when it is the last, and as {later!r} before message {last.message + 1}. Set task.train_on=last "
                    "or task.template_arguments, or choose another template with task.chat_template"
                )
        self._check_all_is_rendered(messages[: last.message + 1], tools, last.whole)
        return turns

    def write(self, conversations: Sequence[Sequence[Turn]]) -> list[Written | TurnError]:
        """The tokens of each conversation, or the error if they differ from those of the prompts that generate gets."""
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
        """The tokens that prompt for the next reply. The oldest rounds are dropped to make it fit, but no system text.

        Raises TurnError if not even the last round fits.
        """
        messages = conversation.messages
        first = next((at for at, message in enumerate(messages) if message["role"] != "system"), 0)
        rounds = [first, *(at for at in range(first + 1, len(messages)) if messages[at]["role"] == "user")]
        for start in rounds:
            kept = [*messages[:first], *messages[start:]]
            (ids,) = self._ids([self._render(kept, conversation.tools, ask=True) + self._inserted])
            if len(ids) <= max_tokens:
                return ids
        raise TurnError(f"the last round alone has {len(ids):,} tokens, but only {max_tokens:,} fit")

    def _assemble(self, turns: Sequence[Turn], pairs: Sequence[tuple[list[int], list[int]]]) -> Written:
        ids = pairs[-1][1]
        replies = [
            Reply(turn.message, len(prompt), len(whole)) for turn, (prompt, whole) in zip(turns, pairs, strict=True)
        ]
        if any(ids[: len(part)] != part for pair in pairs for part in pair):
            ids, replies = self._in_pieces(turns, ids)
        for reply in replies:
            if ids[reply.end - 1] not in self._added_ids:
                raise TurnError(
                    f"message {reply.message + 1}: the chat template ends a reply with "
                    f"{self._tokenizer.decode(ids[reply.end - 1 : reply.end])!r}, which is not a special token, so the "
                    "model would not learn when to stop; choose another template with task.chat_template"
                )
        bos = self._tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise TurnError(f"the text begins with {self._tokenizer.bos_token} twice; remove it from the chat template")
        return Written(ids, replies)

    def _in_pieces(self, turns: Sequence[Turn], joined: list[int]) -> tuple[list[int], list[Reply]]:
        """The tokens if the tokenizer merges a header with its reply: tokenized separately, as in generation."""
        ids: list[int] = []
        replies = []
        done = 0
        for turn in turns:
            before, reply = self._ids([turn.prompt[done:], turn.whole[len(turn.prompt) :]])
            start = len(ids) + len(before)
            ids += [*before, *reply]
            replies.append(Reply(turn.message, start, len(ids)))
            done = len(turn.whole)
        if self._tokenizer.decode(ids) != self._tokenizer.decode(joined):
            raise TurnError(
                "the tokenizer merges the assistant's header with the beginning of a reply; remove the white "
                "space at the beginning of the reply"
            )
        return ids, replies

    def _render(self, messages: Sequence[Message], tools: Any, *, ask: bool) -> str:
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

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text. A piece between two special tokens is tokenized once, however many texts contain it.

        So tokenizing all prefixes of a conversation takes no longer than tokenizing the whole.
        """
        pieces = [self._pieces(text) for text in texts]
        unique = list(dict.fromkeys(piece for text_pieces in pieces for piece in text_pieces))
        # Without the tokenizer's own special tokens, because the template renders them all.
        arguments = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        encoded = self._tokenizer(unique, **arguments)["input_ids"] if unique else []
        ids_of: dict[str, list[int]] = dict(zip(unique, encoded, strict=True))
        return [[token for piece in text_pieces for token in ids_of[piece]] for text_pieces in pieces]

    def _pieces(self, text: str) -> list[str]:
        """The text, split before each special token, as a tokenizer does before anything else."""
        if self._special is None:
            return [text]
        starts = [0, *(match.start() for match in self._special.finditer(text)), len(text)]
        return [text[start:end] for start, end in pairwise(starts) if start < end]

    def _check_reply(self, at: int, message: Message, reply: str) -> None:
        where = f"message {at + 1}"
        if not _is_in(message["content"], _squeezed(reply)):
            raise TurnError(f"{where}: the chat template renders the reply {message['content']!r:.80} as {reply!r:.80}")
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] not in reply:
                raise TurnError(f"{where}: the chat template omits the call of {call['function']['name']}")

    def _check_all_is_rendered(self, messages: Sequence[Message], tools: Any, text: str) -> None:
        squeezed = _squeezed(text)
        for number, message in enumerate(messages, start=1):
            if not _is_in(message["content"], squeezed):
                raise TurnError(f"the chat template omits or changes message {number} ({message['role']})")
        for tool in tools or ():
            if not _is_in(tool["function"]["name"], squeezed):
                raise TurnError(
                    f"the chat template omits the tool {tool['function']['name']}; choose one that supports tools with "
                    "task.chat_template, or remove the tools"
                )
        for number, message in enumerate(messages, start=1):
            for token in self._control_tokens:
                if token in message["content"]:
                    why = "which the model would read as the boundary of a turn"
                    raise TurnError(f"message {number} ({message['role']}) contains {token}, {why}; remove it")

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._tokenizer.added_tokens_decoder)

    @cached_property
    def _control_tokens(self) -> list[str]:
        """The special tokens that delimit turns, which no message may contain."""
        template = str(self._tokenizer.chat_template)
        own = (self._tokenizer.bos_token, self._tokenizer.eos_token)
        return [token for token in self._framing if token in own or token in template]

    @cached_property
    def _framing(self) -> list[str]:
        added = self._tokenizer.added_tokens_decoder.values()
        return [
            str(token)
            for token in added
            if token.special and str(token).strip() and not (token.lstrip or token.single_word)
        ]

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        longest_first = sorted(self._framing, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _is_in(content: str, squeezed: str) -> bool:
    """Whether the text contains it, ignoring white space and JSON escapes: templates trim texts and may write JSON."""
    if _squeezed(content) in squeezed:
        return True
    return _squeezed(json.dumps(content, ensure_ascii=False)[1:-1]) in squeezed


def _difference(one: str, other: str) -> tuple[str, str]:
    """Both texts from a little before the point where they differ."""
    pairs = enumerate(zip(one, other, strict=False))
    at = next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = max(0, at - 20)
    return one[start : at + 40], other[start : at + 40]
