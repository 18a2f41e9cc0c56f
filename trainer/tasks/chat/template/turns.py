"""Conversations as the chat template renders them, and where the assistant's replies are in them.

For each reply, the template renders the prompt before it, with the assistant's header, and the conversation including
it. The difference is the reply with its end of turn. Nothing is assumed of a template without being checked. Replies
that cannot be learned together are rendered one by one (apart.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from shardtune.errors import DataError
from shardtune.trainer.tasks.chat.conversations import Conversation, Message
from shardtune.trainer.tasks.chat.template.apart import MARK, render_apart
from shardtune.trainer.tasks.chat.template.compare import (
    TurnError,
    UnstableError,
    difference,
    is_in,
    squeezed,
    unlike_prompt,
)
from shardtune.trainer.tasks.chat.template.rendering import Rendering
from shardtune.trainer.tasks.chat.template.template_date import date_note
from shardtune.trainer.tasks.chat.template.thoughts import OPEN, field_of, shows_thoughts, split_thoughts
from shardtune.trainer.tasks.chat.template.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Reply", "Turn", "TurnError", "Turns", "UnstableError", "Written"]


class Turn(NamedTuple):
    """The rendered texts of one reply."""

    message: int
    """The index of the message, from 0."""
    prompt: str
    """Everything before what is learned of the reply, with the assistant's header."""
    whole: str
    """Everything up to the end of its turn."""
    asked: str
    """The prompt for it in evaluations; it may be longer by thoughts that the template leaves empty."""
    hides_thoughts: bool = False
    """Whether the message has thoughts in a field that the template does not show."""


class Reply(NamedTuple):
    """The token positions of a reply, with its end of turn and without the header."""

    message: int
    start: int
    end: int
    asked: int
    """The length of the prompt for it in evaluations."""


@dataclass(frozen=True)
class Written:
    """The tokens of a conversation, up to the last requested reply."""

    ids: list[int]
    replies: list[Reply]


class Turns:
    """A tokenizer's chat template. Raises DataError if replies cannot be learned from it."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        arguments: Mapping[str, Any],
        *,
        thoughts: str | None = None,
        system_turn: str | None = None,
        has_thoughts: bool = False,
    ) -> None:
        """`thoughts` and `system_turn` are keys of ChatOptions. With `has_thoughts`, as replies of the data have them,
        the empty thoughts that the template gives to other replies are learned, and not asked with."""
        self._tokens = Tokens(tokenizer)
        self._rendering = Rendering(tokenizer, arguments, system_turn=system_turn)
        self.note = date_note(tokenizer.chat_template, arguments)
        self._keeps_thoughts = thoughts == "keep"
        self._inserted = ""
        probe = Conversation(messages=[_message("user", "a"), _message("assistant", MARK)], weights=[0, 1])
        try:
            try:
                (turn,) = self.texts(probe, [1])
            except UnstableError:
                turn = self._turn(probe, 1, *render_apart(self._rendering, probe, 1, is_probe=True))
            before, _, _ = turn.whole.removeprefix(turn.prompt).partition(MARK)
            if before.strip() and not has_thoughts:
                # For example an empty <think></think>: like the header, it is not to be learned.
                self._inserted = before
            (written,) = self.write([[turn]])
            if isinstance(written, TurnError):
                raise written
        except TurnError as error:
            raise DataError(f"model.path: the chat template cannot be used for training: {error}") from error
        self.end_of_turn: int = written.ids[-1]

    @property
    def escapes(self) -> bool:
        """Whether special tokens in messages are plain text."""
        return self._rendering.escaped is not None

    @escapes.setter
    def escapes(self, wanted: bool) -> None:
        self._rendering.escaped = self._tokens.escaped if wanted else None

    def texts(self, conversation: Conversation, learned: Sequence[int], known: Sequence[Turn] = ()) -> list[Turn]:
        """The texts of these replies, after the known ones; each is a prefix of the last one's `whole`.

        Raises TurnError if the template rejects the conversation or omits a part of it; and UnstableError if it renders
        earlier turns differently once there are later ones, or prompts for a reply with another text than it renders.
        """
        messages, tools = conversation.messages, conversation.tools
        turns = list(known)
        for at in learned:
            prompt = self._rendering.render(messages[:at], tools, ask=True)
            whole = self._rendering.render(messages[: at + 1], tools, ask=False)
            if not whole.startswith(prompt):
                raise unlike_prompt(at, prompt, whole)
            reply = whole[len(prompt) :]
            self._check_reply(at, messages[at], prompt, reply)
            if self._inserted and reply.startswith(self._inserted):
                prompt += self._inserted
            hides = _hides_thoughts(messages[at], reply)
            turns.append(Turn(at, prompt, whole.rstrip(), prompt, hides))
        last = turns[-1]
        for turn in turns:
            if not last.whole.startswith(turn.whole):
                alone, later = difference(turn.whole, last.whole)
                raise UnstableError(
                    f"the chat template rewrites earlier turns: message {turn.message + 1} is rendered as {alone!r} "
                    f"when it is the last, and as {later!r} before message {last.message + 1}. Set task.train_on=last, "
                    "task.turns=auto or task.template_arguments, or choose another template with task.chat_template"
                )
        self._check_all_is_rendered(messages[: last.message + 1], tools, last.whole)
        return turns

    def alone(self, conversation: Conversation, at: int) -> Turn:
        """The texts of one reply on its own, as it will be asked for. Raises TurnError."""
        prompt, reply = render_apart(self._rendering, conversation, at, keeps_thoughts=self._keeps_thoughts)
        self._check_reply(at, conversation.messages[at], prompt, reply)
        turn = self._turn(conversation, at, prompt, reply)
        # The thoughts of earlier replies are not asked for, so a template may drop them.
        earlier = [
            {**message, "content": split_thoughts(message)[1]} if message["role"] == "assistant" else message
            for message in conversation.messages[:at]
        ]
        self._check_all_is_rendered([*earlier, conversation.messages[at]], conversation.tools, turn.whole)
        return turn

    def _turn(self, conversation: Conversation, at: int, prompt: str, reply: str) -> Turn:
        asked = prompt + self._inserted if self._inserted and reply.startswith(self._inserted) else prompt
        hides = _hides_thoughts(conversation.messages[at], reply)
        return Turn(at, prompt, f"{prompt}{reply}".rstrip(), asked, hides)

    def write(self, conversations: Sequence[Sequence[Turn]]) -> list[Written | TurnError]:
        """The tokens of each conversation, or the error if they differ from those of the prompts that generate gets."""
        texts = [text for turns in conversations for turn in turns for text in (turn.prompt, turn.whole, turn.asked)]
        ids = iter(self._tokens.of(texts))
        written: list[Written | TurnError] = []
        for turns in conversations:
            parts = [(next(ids), next(ids), next(ids)) for _ in turns]
            try:
                written.append(self._assemble(turns, parts))
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
            text = self._rendering.render(kept, conversation.tools, ask=True) + self._inserted
            (ids,) = self._tokens.of([text])
            if len(ids) <= max_tokens:
                return ids
        raise TurnError(f"the last round alone has {len(ids):,} tokens, but only {max_tokens:,} fit")

    def opening(self, system: str | None) -> tuple[list[int], int]:
        """The tokens up to the text of the first question, with what the template puts before it, and the special token
        with which the question ends.

        Raises TurnError if the template ends a question otherwise, so that nothing tells where one ends.
        """
        messages = [*([_message("system", system)] if system is not None else []), _message("user", MARK)]
        before, mark, after = self._rendering.render(messages, None, ask=False).partition(MARK)
        opening, end = self._tokens.of([before, after.lstrip()])
        if not mark or not opening or not end or not self._tokens.is_added(end[0]):
            ends = f"with {self._tokens.decode(end[:1])!r}" if end else "without a mark"
            raise TurnError(f"the chat template ends a question {ends}, which is not a special token")
        return opening, end[0]

    def _assemble(self, turns: Sequence[Turn], parts: Sequence[tuple[list[int], list[int], list[int]]]) -> Written:
        ids = parts[-1][1]
        replies = [
            Reply(turn.message, len(prompt), len(whole), len(asked))
            for turn, (prompt, whole, asked) in zip(turns, parts, strict=True)
        ]
        if any(ids[: len(part)] != part for of_turn in parts for part in of_turn):
            ids, replies = self._in_pieces(turns, ids)
        for reply in replies:
            self._tokens.check_turn_end(ids[reply.end - 1], reply.message + 1)
        self._tokens.check_beginning(ids)
        return Written(ids, replies)

    def _in_pieces(self, turns: Sequence[Turn], joined: list[int]) -> tuple[list[int], list[Reply]]:
        """The tokens if the tokenizer merges a header with its reply: tokenized separately, as in generation."""
        ids: list[int] = []
        replies = []
        done = 0
        for turn in turns:
            before, empty, reply = self._tokens.of(
                [turn.prompt[done:], turn.asked[len(turn.prompt) :], turn.whole[len(turn.asked) :]]
            )
            start = len(ids) + len(before)
            ids += [*before, *empty, *reply]
            replies.append(Reply(turn.message, start, len(ids), start + len(empty)))
            done = len(turn.whole)
        if self._tokens.decode(ids) != self._tokens.decode(joined):
            raise TurnError(
                "the tokenizer merges the assistant's header with the beginning of a reply; remove the white "
                "space at the beginning of the reply"
            )
        return ids, replies

    def _check_reply(self, at: int, message: Message, prompt: str, reply: str) -> None:
        where = f"message {at + 1}"
        # Of templates whose prompt begins the thoughts.
        shown = squeezed(f"{OPEN}{reply}" if prompt.rstrip().endswith(OPEN) else reply)
        thoughts, answer = split_thoughts(message)
        if self._keeps_thoughts and thoughts and not shows_thoughts(message, reply):
            raise UnstableError(f"{where}: the chat template drops the thoughts of a reply; set task.turns=auto")
        if not is_in(message["content"], shown):
            what = f"{where}: the chat template renders the reply {message['content']!r:.80} as {reply!r:.80}"
            cure = "set task.thoughts=drop, or keep to put the thoughts in front of the answer"
            raise TurnError(f"{what}; {cure}" if thoughts and is_in(answer, shown) else what)
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] not in reply:
                raise TurnError(
                    f"{where}: the chat template omits the call of {call['function']['name']}; choose one that "
                    "supports tools with task.chat_template (task.chat_template=chatml reads these rows)"
                )

    def _check_all_is_rendered(self, messages: Sequence[Message], tools: Any, text: str) -> None:
        shown = squeezed(text)
        for number, message in enumerate(messages, start=1):
            if not is_in(message["content"], shown):
                cure = self._rendering.omission_cure(message)
                is_answer_in = message["role"] == "assistant" and is_in(split_thoughts(message)[1], shown)
                error = UnstableError if is_answer_in else TurnError  # only the thoughts are missing
                raise error(f"the chat template omits or changes message {number} ({message['role']}){cure}")
        for tool in tools or ():
            if not is_in(tool["function"]["name"], shown):
                raise TurnError(
                    f"the chat template omits the tool {tool['function']['name']}; choose one that supports tools with "
                    "task.chat_template (task.chat_template=chatml does), or remove the tools"
                )
        self._tokens.check_no_control_tokens(messages, tools, are_escaped=self.escapes)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _hides_thoughts(message: Message, reply: str) -> bool:
    """Whether thoughts in a field of the message are not in its reply."""
    return bool(field_of(message)) and not shows_thoughts(message, reply)
