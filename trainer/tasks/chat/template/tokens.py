"""The tokens of rendered conversations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from shardtune.errors import DataError
from shardtune.trainer.tasks.chat.conversations import Message
from shardtune.trainer.tasks.chat.template.compare import BREAK, TurnError
from shardtune.trainer.tasks.chat.template.thoughts import CLOSE, OPEN
from shardtune.trainer.tasks.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokens:
    """A tokenizer, as rendered conversations need it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def of(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text. A piece between two special tokens is tokenized once, however many texts contain it.

        So tokenizing all prefixes of a conversation takes no longer than tokenizing the whole. Raises TurnError if an
        escaped special token cannot be written as plain text.
        """
        pieces = {text: self._pieces(text) for text in dict.fromkeys(texts)}
        unique = list(dict.fromkeys(piece for text_pieces in pieces.values() for piece in text_pieces))
        usual = [piece for piece in unique if BREAK not in piece]
        # Without the tokenizer's own special tokens, because the template renders them all.
        arguments = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        encoded = self._tokenizer(usual, **arguments)["input_ids"] if usual else []
        ids_of: dict[str, list[int]] = dict(zip(usual, encoded, strict=True))
        ids_of |= {piece: self._escaped(piece) for piece in unique if BREAK in piece}
        return [[token for piece in pieces[text] for token in ids_of[piece]] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens."""
        return str(self._tokenizer.decode(list(ids)))

    def is_added(self, token: int) -> bool:
        """Whether it is one of the tokens that were added to the vocabulary, as those that delimit turns are."""
        return token in self._added_ids

    def check_turn_end(self, token: int, number: int) -> None:
        """Raises TurnError if the last token of this message (counted from 1) is not a special token."""
        if not self.is_added(token):
            raise TurnError(
                f"message {number}: the chat template ends a reply with {self.decode([token])!r}, which is not a "
                "special token, so the model would not learn when to stop; "
                "choose another template with task.chat_template"
            )

    def check_beginning(self, ids: Sequence[int]) -> None:
        """Raises TurnError if the text begins twice."""
        bos = self._tokenizer.bos_token_id
        if bos is not None and list(ids[:2]) == [bos, bos]:
            raise TurnError(f"the text begins with {self._tokenizer.bos_token} twice; remove it from the chat template")

    def check_no_control_tokens(self, messages: Sequence[Message], tools: Any, *, are_escaped: bool) -> None:
        """Raises TurnError if a message contains a special token that delimits turns, unless it is escaped."""
        for number, message in enumerate(messages, start=1):
            where = f"message {number} ({message['role']})"
            tags = (OPEN, CLOSE) if message["role"] == "assistant" else ()
            for value in message.values():
                self._check_no_control_tokens(value, where, tags, are_escaped)
        self._check_no_control_tokens(tools, "a tool", (), are_escaped)

    def _check_no_control_tokens(self, value: Any, where: str, allowed: Sequence[str], are_escaped: bool) -> None:
        if isinstance(value, Mapping):
            value = [*value, *value.values()]
        if isinstance(value, list):
            for item in value:
                self._check_no_control_tokens(item, where, allowed, are_escaped)
        if not isinstance(value, str):
            return
        for token in self._control_tokens:
            if token in value and token not in allowed and not (are_escaped and len(token) > 1):
                cure = "remove it" if are_escaped else "remove it, or set data.special_tokens_in_text=escape"
                raise TurnError(
                    f"{where} contains {token}, which the model would read as the boundary of a turn; {cure}"
                )

    @cached_property
    def escaped(self) -> re.Pattern[str] | None:
        """Matches the special tokens that can be escaped in messages; None if there are none."""
        longest_first = sorted((token for token in self._plain.tokens if len(token) > 1), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def _escaped(self, piece: str) -> list[int]:
        """The tokens of a piece that contains special tokens of a message, which are plain text."""
        first = self._special.match(piece) if self._special is not None else None
        before = first.group() if first else ""
        rest = piece[len(before) :].replace(BREAK, "")
        if before in self._strip_right:
            rest = rest.lstrip()
        try:
            if not before:
                return self._plain.encode([rest])[0]
            (ids,) = self.of([before])
            return [*ids, *self._plain.continued(rest)]
        except DataError as error:
            raise TurnError(str(error)) from error

    def _pieces(self, text: str) -> list[str]:
        """The text, split before each special token, as a tokenizer does before anything else."""
        if self._special is None:
            return [text]
        starts = [0, *(match.start() for match in self._special.finditer(text)), len(text)]
        return [text[start:end] for start, end in pairwise(starts) if start < end]

    @cached_property
    def _plain(self) -> SpecialTokens:
        return SpecialTokens(self._tokenizer)

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
    def _strip_right(self) -> frozenset[str]:
        """The special tokens that swallow the white space after them."""
        return frozenset(str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.rstrip)

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        longest_first = sorted(self._framing, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
