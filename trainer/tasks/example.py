"""Examples: prepared rows as lists, before they become tensors; and the label that marks what is not a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a position without a target (the convention of torch and transformers)."""

IGNORED_NUMBER = float("nan")
"""The same where labels are real numbers, because -100 may be one of them."""

Example = dict[str, Any]
"""A prepared row, or a window of one: `input_ids` (a list of ints), `labels`, and whatever else collate needs.

In training and evaluation it also has a `draw`: two 64-bit integers that seed all of its randomness. In training they
follow from the seed, the step and the position in the step; in an evaluation, from the row alone.
"""

TRUNCATED = "truncated"
"""An optional key of an example: how many tokens of its row did not fit into data.max_tokens. Counted, and not kept."""

NOTED = "noted"
"""An optional key of an example: counts of what the user should know of its row, by name (Task.notes). Not kept."""


def texts_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each token adds; concatenated, they are the whole text.

    A character that consists of several (byte) tokens belongs to the last of them.
    """
    texts: list[str] = []
    so_far = ""
    for end in range(1, len(ids) + 1):
        whole = str(tokenizer.decode(list(ids[:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if whole.endswith("\ufffd") and end < len(ids):
            texts.append("")
            continue
        texts.append(whole[len(so_far) :])
        so_far = whole
    return texts


def frame_of(tokenizer: PreTrainedTokenizerBase, *, as_target: bool = False) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text, or a translation if `as_target`."""
    text: dict[str, Any] = {"text_target" if as_target else "text": "a"}
    bare, whole = tokenizer(**text, add_special_tokens=False)["input_ids"], tokenizer(**text)["input_ids"]
    at = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    return whole[:at], whole[at + len(bare) :]


def weights_of(example: Example) -> list[float]:
    """The weight of each label; 1 for every target of an example without weights."""
    return example.get("weights") or [float(label != IGNORED) for label in example["labels"]]
