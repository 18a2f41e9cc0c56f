"""The tokens of each word of a text, whatever the tokenizer tells of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shardtune.trainer.tasks.special_tokens import encode_plain, special_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def word_pieces(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], *, is_plain: bool
) -> list[list[list[int]]]:
    """The token ids of each word of each text; [] for a word that has none, such as a control character.

    With `is_plain`, special tokens that are literally in a word are plain text; DataError if that is impossible.
    """
    pieces = _by_text(tokenizer, texts) if tokenizer.is_fast else _by_word(tokenizer, texts)
    if is_plain:
        for words, ids in zip(texts, pieces, strict=True):
            for at, word in enumerate(words):
                if special_in(tokenizer, word) is not None:
                    (ids[at],) = encode_plain(tokenizer, [word], add_special_tokens=False)
    return pieces


def _by_text(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    encoded: Any = tokenizer(list(texts), is_split_into_words=True, add_special_tokens=False, verbose=False)
    pieces: list[list[list[int]]] = [[[] for _ in words] for words in texts]
    for number, ids in enumerate(pieces):
        for piece, word in zip(encoded["input_ids"][number], encoded.word_ids(number), strict=True):
            ids[word].append(piece)
    return pieces


def _by_word(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """By words alone, because a tokenizer written in Python does not tell which tokens are a word."""
    unique = list(dict.fromkeys(word for words in texts for word in words))
    how: dict[str, Any] = {"is_split_into_words": True, "add_special_tokens": False, "verbose": False}
    alone: list[list[int]] = tokenizer([[word] for word in unique], **how)["input_ids"] if unique else []
    ids_of = dict(zip(unique, alone, strict=True))
    return [[list(ids_of[word]) for word in words] for words in texts]
