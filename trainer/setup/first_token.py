"""Lets the last layer of an encoder that classifies by its first token compute only that token; same gradients.

BERT and similar models pass only the first position on to the classifier, so that for the other positions the last
layer needs keys and values only. Whether this holds is measured on the model, as with packing; there is no list of
architectures.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.setup.packing import MAX_DIFFERENCE
from shardtune.trainer.tasks.batch import Batch


def read_first_alone(engine: Engine, model: Any, batch: Batch, precision: str, ranks: Ranks) -> bool:
    """Collective: lets the last layer compute the first position only, if the logits of the batch stay the same.

    Returns whether they did; if not, the model is unchanged.
    """
    found = _last_attention(model)
    if found is None:
        return False
    attention, cross = found
    with engine.evaluating():
        before = engine.forward(batch).logits.float()
        undo = _narrow(attention, cross)
        after = engine.forward(batch).logits.float()
    is_same = after.shape == before.shape and bool(
        torch.linalg.vector_norm(after - before) <= MAX_DIFFERENCE[precision] * torch.linalg.vector_norm(before)
    )
    if ranks.any(not is_same):
        undo()
        return False
    return True


@contextmanager
def reading_every_token(model: Any) -> Iterator[None]:
    """Lets the last layer compute all positions again, for a head that reads more than the first one."""
    found = _last_attention(model)
    narrowed = None if found is None else vars(found[0].self).pop("forward", None)
    try:
        yield
    finally:
        if found is not None and narrowed is not None:
            found[0].self.forward = narrowed  # the hook beside it changes nothing where all positions are computed


def _last_attention(model: Any) -> tuple[Any, Any] | None:
    """The last layer's attention, and the class that computes it for separate queries; None if unknown."""
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    attention = getattr(layers[-1], "attention", None) if layers else None
    self_attention = type(getattr(attention, "self", None))
    if not hasattr(attention, "output") or not self_attention.__name__.endswith("SelfAttention"):
        return None
    name = self_attention.__name__.removesuffix("SelfAttention") + "CrossAttention"
    cross = getattr(sys.modules[self_attention.__module__], name, None)
    if cross is None or "encoder_hidden_states" not in signature(cross.forward).parameters:
        return None
    return attention, cross


def _narrow(attention: Any, cross: Any) -> Any:
    """Restricts the queries, and what follows them, to the first position; returns a function that undoes it."""

    def attend(hidden_states: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        if attention_mask is not None and attention_mask.dim() == 4:
            attention_mask = attention_mask[:, :, :1]
        own = {"encoder_hidden_states": hidden_states, "attention_mask": attention_mask, "past_key_values": None}
        return cross.forward(attention.self, hidden_states[:, :1], **kwargs | own)

    def add_first(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        attended, hidden_states = args
        return attended, hidden_states[:, : attended.shape[1]]

    attention.self.forward = attend
    hook = attention.output.register_forward_pre_hook(add_first)

    def undo() -> None:
        del attention.self.forward
        hook.remove()

    return undo
