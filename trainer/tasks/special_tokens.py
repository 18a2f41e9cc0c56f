"""Texts as plain text: the special tokens that are literally in them are never read as such.

Otherwise a row that contains `<|im_end|>` or `</s>` would end a turn or a text, and whoever wrote it could speak for
the system.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from shardtune.errors import DataError
from shardtune.trainer.tasks.example import frame_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENERS = (".", "a", "\n")
"""Texts before which a text is put to be tokenized as the middle of a text; the first that does not merge with it."""


def special_in(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """The first special token of the tokenizer that is literally in the text; None if there is none."""
    return _special_tokens(tokenizer, len(tokenizer)).first_in(text)


def encode_plain(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, as_target: bool = False, **arguments: Any
) -> list[list[int]]:
    """The token ids of each text, in which special tokens that are literally in the text are plain text.

    The tokenizer's own special tokens are around each text, unless add_special_tokens=False; `as_target` encodes as
    `text_target` does. Further arguments go to the tokenizer, but truncation is up to the caller. A text without
    special tokens has the same ids as ever. Raises DataError for a text that has no such form.
    """
    is_framed = arguments.pop("add_special_tokens", True)
    before, after = frame_of(tokenizer, as_target=as_target) if is_framed else ([], [])
    special = _special_tokens(tokenizer, len(tokenizer))
    return [[*before, *ids, *after] for ids in special.encode(texts, as_target=as_target, **arguments)]


class SpecialTokens:
    """The special tokens of a tokenizer that texts might contain."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._ids = {number: str(token) for number, token in added.items() if token.special and str(token).strip()}
        self._ids |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        # A word that is not in the vocabulary is no special token of the text.
        self._control_ids = frozenset(self._ids) - {tokenizer.unk_token_id}

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches each special token; of two that begin alike, the longer one."""
        longest_first = sorted(set(self._ids.values()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def first_in(self, text: str) -> str | None:
        """The first special token that is literally in the text; None if there is none."""
        found = self.pattern.search(text)
        return found.group() if found else None

    def encode(self, texts: Sequence[str], *, as_target: bool = False, **arguments: Any) -> list[list[int]]:
        """The ids of each text, without special tokens in or around it. Raises DataError if a text has none."""
        how = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False, **arguments}
        plain = [text for text in texts if not self.pattern.search(text)]
        ids_of = dict(zip(plain, self._call(plain, as_target, how), strict=True))
        return [self._checked(text, ids_of.get(text), as_target, how) for text in texts]

    def _checked(self, text: str, ids: list[int] | None, as_target: bool, how: dict[str, Any]) -> list[int]:
        """These ids, or others in which there is no special token."""
        if ids is None or not self._control_ids.isdisjoint(ids):
            (ids,) = self._call([text], as_target, {**how, "split_special_tokens": True})
        if self._control_ids.isdisjoint(ids):
            return ids
        # The vocabulary has the special token as an ordinary word too: it is cut in two, or into characters.
        for cuts in ([match.start() + 1 for match in self.pattern.finditer(text)], range(1, len(text))):
            parts = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
            ids = [token for at, part in enumerate(parts) for token in self._part(part, at > 0, as_target, how)]
            if self._control_ids.isdisjoint(ids):
                return ids
        token = next(self._ids[token] for token in ids if token in self._control_ids)
        raise DataError(f"the tokenizer cannot write {token} as plain text: remove it from {text!r:.80}")

    def _part(self, text: str, is_continued: bool, as_target: bool, how: dict[str, Any]) -> list[int]:
        """The ids of a part of a text."""
        how = {**how, "split_special_tokens": True}
        return self._continued(text, as_target, how) if is_continued else self._call([text], as_target, how)[0]

    def continued(self, text: str) -> list[int]:
        """The ids of a text that follows something else, without special tokens in it.

        Some tokenizers put a space before the beginning of a text. It is not put before this one, if that is possible.
        """
        how = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        ids = self._continued(text, False, {**how, "split_special_tokens": True})
        return ids if self._control_ids.isdisjoint(ids) else self._checked(text, None, False, how)

    def _continued(self, text: str, as_target: bool, how: dict[str, Any]) -> list[int]:
        for opener in OPENERS:
            start, ids = self._call([opener, f"{opener}{text}"], as_target, how)
            rest = ids[len(start) :]
            if start == ids[: len(start)] and _squeezed(str(self._tokenizer.decode(rest))) == _squeezed(text):
                return rest
        return self._call([text], as_target, how)[0]

    def _call(self, texts: Sequence[str], as_target: bool, how: dict[str, Any]) -> list[list[int]]:
        if not texts:
            return []
        given: dict[str, Any] = {"text_target" if as_target else "text": list(texts)}
        ids: list[list[int]] = self._tokenizer(**given, **how)["input_ids"]
        return ids


def _squeezed(text: str) -> str:
    return "".join(text.split())


@lru_cache(maxsize=4)
def _special_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> SpecialTokens:
    """Kept, because a vocabulary is large; `size` is its present one, which grows if tokens are added."""
    return SpecialTokens(tokenizer)
