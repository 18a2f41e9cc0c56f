"""What transformers asks of the masks of a pass, answered by what the host knows of the batch.

In each pass transformers (5.23) reads from the device whether the attention mask hides anything, and whether the
position ids are those of several texts in a row. On a GPU, either question waits for everything that is still to be
computed there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import masking_utils

from shardtune.trainer.tasks.batch import Batch

FREE = frozenset({"cpu"})
"""The types of devices whose numbers the host reads without waiting."""

_known: Batch | None = None
"""The batch of the current pass."""


@contextmanager
def masks_known(batch: Batch) -> Iterator[None]:
    """Answers for passes of this batch, in which its device is not asked."""
    global _known
    if batch.labels.device.type in FREE:
        yield
        return
    _known = batch
    for name in _ANSWERS.keys() & _ASKED.keys():
        setattr(masking_utils, name, _ANSWERS[name])
    try:
        yield
    finally:
        _known = None
        for name, function in _ASKED.items():
            setattr(masking_utils, name, function)


def _ignores_causal(mask: Tensor | None, *args: Any, **more: Any) -> Any:
    """Whether attention needs no mask beside the causal one."""
    return _ignores(mask, _is_hiding(mask, is_causal=True), "_ignore_causal_mask_sdpa", *args, **more)


def _ignores_bidirectional(mask: Tensor | None, *args: Any, **more: Any) -> Any:
    """Whether attention needs no mask at all."""
    return _ignores(mask, _is_hiding(mask, is_causal=False), "_ignore_bidirectional_mask_sdpa", *args, **more)


def _ignores(mask: Tensor | None, is_hiding: bool | None, question: str, *args: Any, **more: Any) -> Any:
    if is_hiding:
        return False
    return _ASKED[question](mask if is_hiding is None else None, *args, **more)


def _is_hiding(mask: Tensor | None, *, is_causal: bool) -> bool | None:
    """Whether this padding mask hides anything; None if that is not known, as of a mask that the model has made."""
    if mask is None or _known is None or torch.compiler.is_compiling():
        return None
    inputs = _known.inputs
    if is_causal and "decoder_input_ids" in inputs:  # it has no mask, and the model makes one of ones
        is_own = "decoder_attention_mask" not in inputs and mask.shape == inputs["decoder_input_ids"].shape
        return False if is_own else None
    given = inputs.get("attention_mask")
    return _known.is_padded if given is not None and given.shape == mask.shape else None


def _texts_of(position_ids: Tensor) -> Any:
    """The number of each token's text within its row; None if each row is a single text."""
    if _known is None or torch.compiler.is_compiling():
        return _ASKED["find_packed_sequence_indices"](position_ids)
    if "position_ids" not in _known.inputs:
        return None
    return (position_ids.diff(prepend=position_ids[:, :1] - 1) != 1).cumsum(-1)


_ANSWERS = {
    "_ignore_causal_mask_sdpa": _ignores_causal,
    "_ignore_bidirectional_mask_sdpa": _ignores_bidirectional,
    "find_packed_sequence_indices": _texts_of,
}
_ASKED: dict[str, Any] = {name: getattr(masking_utils, name) for name in _ANSWERS if hasattr(masking_utils, name)}
