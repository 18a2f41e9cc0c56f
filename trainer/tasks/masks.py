"""What keeps padding and the other texts of a row out of a text's sight: a mask, the borders of the texts, or nothing.

Everything is made from the lengths of the texts, by the thread that makes batches: nothing is read from a GPU.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import accumulate
from typing import Any

import torch

from shardtune.trainer.tasks.batch import Batch


class Masks(StrEnum):
    """Which attention masks batches have."""

    KEPT = "kept"
    """Those of the task."""
    UNPADDED = "unpadded"
    """None where no row is padded; else those of the task."""
    NONE = "none"
    """None: a causal model does not see the padding behind a text."""
    BORDERS = "borders"
    """None; instead the borders of the texts, by the names of transformers' FlashAttentionKwargs."""
    MARKED = "marked"
    """The borders, and in place of the mask one True of shape (1, 1, 1, 1). Of a mask with four dimensions transformers
    (5.23) makes no other one; without a mask it reads the position ids, for which a GPU has to be waited for."""


def with_masks(batch: Batch, rows: Sequence[Sequence[int]], masks: Masks) -> Batch:
    """The batch with these masks. `rows` has for each row the lengths of its texts, in order; the rest is padding."""
    longest = batch.shape[1]
    is_padded = any(sum(row) < longest for row in rows)
    if masks is Masks.KEPT or (masks is Masks.UNPADDED and is_padded):
        return batch
    inputs = {name: value for name, value in batch.inputs.items() if name != "attention_mask"}
    if masks in (Masks.BORDERS, Masks.MARKED):
        inputs |= borders(rows, longest)
    if masks is Masks.MARKED:
        inputs["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    return replace(batch, inputs=inputs)


def borders(rows: Sequence[Sequence[int]], longest: int) -> dict[str, Any]:
    """Where texts begin and end if rows of `longest` tokens are laid one behind another; padding is one more text.

    `cu_seq_lens_q` and `_k`, of shape (texts + 1,) in int32, and `max_length_q` and `_k`, the longest text's tokens.
    """
    lengths = [length for row in rows for length in (*row, longest - sum(row)) if length]
    places = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return {
        "cu_seq_lens_q": places,
        "cu_seq_lens_k": places,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }
