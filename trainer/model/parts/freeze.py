"""model.freeze: which weights are not trained, by patterns of their names."""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from shardtune.errors import DataError
from shardtune.recipe.model.freeze import EMBEDDINGS, layer_range, matches
from shardtune.trainer.model.parts.layers import Parts, parts_of

MOST_SHOWN = 8
"""Names that one line has room for."""


def freeze(model: Any, patterns: Sequence[str], *, new: Collection[str] = ()) -> list[str]:
    """Freezes the pretrained weights that match one of the patterns; returns what the user should know of it.

    Those named in `new`, which the pretrained model lacks, are trained in any case. Raises DataError if a pattern
    matches nothing, or nothing is left to train.
    """
    parts = parts_of(model)
    names = _names_of(model)
    frozen = {first for pattern in patterns for first in _matched(pattern, names, parts)}
    kept = frozen & set(new)
    trained = 0
    for name, parameter in model.named_parameters():
        if name in frozen - kept:
            parameter.requires_grad_(False)
        trained += parameter.requires_grad
    if not trained:
        raise DataError(f"model.freeze: nothing is left to train of {_top_names(names)}; freeze less")
    return [*_note_on_new(kept), *_note_on_head(model)]


def _names_of(model: nn.Module) -> Mapping[str, str]:
    """All names of each parameter, of which a shared one has several -> the first of them."""
    firsts = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: firsts[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}


def _matched(pattern: str, names: Mapping[str, str], parts: Parts) -> set[str]:
    """First names of the parameters that a pattern matches. Raises DataError if there are none."""
    if (wanted := layer_range(pattern)) is not None:
        if wanted.last >= parts.depth:
            has = f"layers 0 to {parts.depth - 1}" if parts.depth else "no list of layers"
            raise DataError(f"model.freeze: {pattern!r}: the model has {has}")
        located = ((first, parts.layer(name)) for name, first in names.items())
        return {first for first, place in located if place is not None and wanted.first <= place[1] <= wanted.last}
    found = {first for name, first in names.items() if matches(pattern, name)}
    if pattern == EMBEDDINGS:
        found |= parts.embeddings
    if not found:
        raise DataError(f"model.freeze: {pattern!r} matches no module and no weight{_nearest(pattern, names)}")
    return found


def _nearest(pattern: str, names: Mapping[str, str]) -> str:
    """`; did you mean …?` with the nearest names of as many parts, or else what the model consists of."""
    num = len(pattern.removesuffix(".").split("."))
    runs = dict.fromkeys(run for name in names for run in _runs(name, num))
    near = difflib.get_close_matches(pattern.removesuffix("."), list(runs), n=3, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; the model consists of {_top_names(names)}"


def _runs(name: str, num: int) -> Iterator[str]:
    """All that a pattern of so many parts could name in a name."""
    parts = name.split(".")
    for start in range(len(parts) - num + 1):
        yield ".".join(parts[start : start + num])


def _top_names(names: Mapping[str, str]) -> str:
    """The modules that the model consists of: those below the base model, and those beside it."""
    tops = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
    more = [f"and {len(tops) - MOST_SHOWN} more"] if len(tops) > MOST_SHOWN else []
    return ", ".join([*list(tops)[:MOST_SHOWN], *more])


def _note_on_new(kept: set[str]) -> Iterator[str]:
    if kept:
        shown = ", ".join(sorted(kept)[:MOST_SHOWN])
        more = f" and {len(kept) - MOST_SHOWN} more" if len(kept) > MOST_SHOWN else ""
        yield f"model.freeze: trained nevertheless, because the pretrained model lacks them: {shown}{more}"


def _note_on_head(model: Any) -> Iterator[str]:
    """Says that the layer of a vocabulary's logits is frozen, because its weight is that of the embeddings."""
    last, first = model.get_output_embeddings(), model.get_input_embeddings()
    weight: Any = getattr(last, "weight", None)
    is_shared = weight is not None and weight is getattr(first, "weight", None)
    if is_shared and not weight.requires_grad:
        yield "model.freeze: the last layer is frozen too, because its weight is that of the embeddings"
