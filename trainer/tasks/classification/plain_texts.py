"""A text or a pair of texts as the tokenizer puts them together, from tokens of which none in the texts is special."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from shardtune.trainer.tasks.special_tokens import encode_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Assembled(NamedTuple):
    """The tokens of a text or pair."""

    inputs: dict[str, list[int]]
    """`input_ids` and `token_type_ids`."""
    num_lost: int
    """How many tokens did not fit."""


class PlainTexts:
    """The form in which a tokenizer puts a text or a pair of texts together."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, are_pairs: bool) -> None:
        self._tokenizer = tokenizer
        sides = ("a", "a") if are_pairs else ("a",)
        whole: Any = tokenizer(*sides, return_token_type_ids=True)
        ids, types = whole["input_ids"], whole["token_type_ids"]
        bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
        starts: list[int] = []
        for _ in sides:
            first = starts[-1] + len(bare) if starts else 0
            starts.append(next(at for at in range(first, len(ids)) if ids[at : at + len(bare)] == bare))
        edges = [edge for start in starts for edge in (start, start + len(bare))]
        # Around and between the texts: special tokens and their types.
        self._frames = [(ids[start:end], types[start:end]) for start, end in pairwise([0, *edges, len(ids)])][::2]
        self._types = [types[start] for start in starts]

    def assemble(self, texts: list[str], max_tokens: int) -> Assembled:
        """The texts, of which the longer one is truncated first, token by token. Raises DataError, see encode_plain."""
        bodies = encode_plain(self._tokenizer, texts, add_special_tokens=False)
        num_lost = max(0, sum(map(len, bodies)) + sum(len(ids) for ids, _ in self._frames) - max_tokens)
        for _ in range(num_lost):
            longest = max(bodies, key=len)
            if longest:
                longest.pop(0 if self._tokenizer.truncation_side == "left" else -1)
        ids, types = map(list, self._frames[0])
        for body, type_, frame in zip(bodies, self._types, self._frames[1:], strict=True):
            ids += [*body, *frame[0]]
            types += [*([type_] * len(body)), *frame[1]]
        return Assembled({"input_ids": ids, "token_type_ids": types}, num_lost)
