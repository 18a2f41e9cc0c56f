"""What `model.freeze` leaves to train, as far as the patterns say it without the model: embeddings and whole layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from shardtune.planner.model_shape import Layers, ModelShape
from shardtune.recipe.model.freeze import EMBEDDINGS, layer_range, parts_of

LISTS = ("layer", "layers", "h", "block", "blocks")
"""What transformers calls a list of layers."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The weights of a model that are not trained, where it has no adapters."""

    embeddings: bool
    layers: tuple[tuple[int, ...], ...]
    """Numbers of the frozen layers of each stack."""
    depths: tuple[int, ...]
    """Number of layers of each stack."""
    num_parameters: float

    def num_below(self, stack: int) -> int:
        """How many layers of a stack are passed forwards only: frozen ones, with nothing trained below them. A decoder
        passes gradients on to its encoder, unless that is frozen as a whole."""
        if not self.embeddings or any(len(self.layers[at]) < self.depths[at] for at in range(stack)):
            return 0
        numbers = self.layers[stack]
        return next((at for at, number in enumerate(numbers) if at != number), len(numbers))


def frozen_of(patterns: Sequence[str], shape: ModelShape) -> Frozen | None:
    """What these patterns freeze; None for none. Patterns of other parts than layers and embeddings freeze little, and
    are taken to freeze nothing."""
    if not patterns:
        return None
    has_embeddings = any(pattern.removesuffix(".") == EMBEDDINGS for pattern in patterns)
    layers = tuple(tuple(sorted({*_layers(patterns, stack, shape)})) for stack in shape.stacks)
    size = shape.embeddings * has_embeddings
    size += sum(len(own) * (stack.matrices + stack.small) for own, stack in zip(layers, shape.stacks, strict=True))
    depths = tuple(stack.num for stack in shape.stacks)
    return Frozen(embeddings=has_embeddings, layers=layers, num_parameters=float(size), depths=depths)


def _layers(patterns: Sequence[str], stack: Layers, shape: ModelShape) -> Iterator[int]:
    """Numbers of the layers of a stack that are frozen as a whole."""
    other = "decoder" if stack.side == "source" else "encoder"
    for pattern in patterns:
        if (wanted := layer_range(pattern)) is not None:
            yield from range(wanted.first, min(wanted.last + 1, stack.num))
            continue
        parts = parts_of(pattern)
        if len(parts) > 1 and parts[-2] in LISTS and not (shape.is_encoder_decoder and other in parts):
            yield from (number for number in range(stack.num) if fnmatchcase(str(number), parts[-1]))
