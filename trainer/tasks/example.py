"""What an example is, and the label that is no target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of what is not a target (torch's and transformers' convention)."""

IGNORED_NUMBER = float("nan")
"""The same where labels are real numbers, of which -100 may well be one."""

Example = dict[str, Any]
"""A prepared row or a window of one: `input_ids` (a list of ints), `labels`, and what else its collate wants.

When it is trained or evaluated on, it also has a `draw`: two whole numbers (64 bits each) that seed whatever is random
about it. They follow from the seed, the step and its place in the step; in an evaluation from the row alone.
"""

TRUNCATED = "truncated"
"""An optional key of an example: how many tokens of its row did not fit into data.max_tokens. Counted, and not kept."""


def texts_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What each token adds to the text; put together they are the text.

    A character that is spread over several tokens (of bytes) is its last one's.
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
    """The special tokens that it puts before and after a text, or a text that is a translation."""
    text: dict[str, Any] = {"text_target" if as_target else "text": "a"}
    bare, whole = tokenizer(**text, add_special_tokens=False)["input_ids"], tokenizer(**text)["input_ids"]
    at = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    return whole[:at], whole[at + len(bare) :]


def weights_of(example: Example) -> list[float]:
    """How much each of its labels counts; of those that say nothing of it, 1."""
    return example.get("weights") or [float(label != IGNORED) for label in example["labels"]]
