"""LayerDrop: which layers a step skips is the same on every rank, in every micro-batch and after a resume.

The models of transformers (5.23) draw for each layer, in each forward pass, from the process's random numbers. Each
rank would skip other layers: DeepSpeed's ranks would then exchange gradients of different layers, and what is learned
would depend on the number of ranks. fairseq, in which LayerDrop was published (Fan et al., 2020), seeds all ranks alike
by the number of the update.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_STACKS = 2**16
"""More than the stacks of layers (an encoder, a decoder) that a model has."""
_torchs_rand = torch.rand


class LayerDrop:
    """Draws the skipped layers of a model's stacks from (seed, step, stack)."""

    def __init__(self, model: nn.Module) -> None:
        """Replaces the forward methods of the stacks that skip layers, those with a `layerdrop` above 0."""
        self._seed = 0
        self._skips = True
        stacks = [module for module in model.modules() if _probability(module) > 0]
        for number, stack in enumerate(stacks, start=1):
            # From the end of the range, because ranks count from its beginning (engine.seed_step).
            stack.forward = self._drawn(stack, _STACKS - number)

    def begin_step(self, seed: int, number: int) -> None:
        """Lets the forward passes from now on skip the layers of this step."""
        self._seed = (seed << 40) + (number << 16)

    @contextmanager
    def none_skipped(self) -> Iterator[None]:
        """Passes through all layers, as in a rehearsal, which is to need as much memory as any step."""
        self._skips = False
        try:
            yield
        finally:
            self._skips = True

    def _drawn(self, stack: nn.Module, number: int) -> Callable[..., Any]:
        forward = stack.forward

        @functools.wraps(forward)
        def drawn(*args: Any, **kwargs: Any) -> Any:
            generator = torch.Generator().manual_seed((self._seed + number) % 2**63)
            draw = _Draws(generator, _probability(stack), _depth(stack)) if self._skips else _no_layer
            with _scalars_from(draw):
                return forward(*args, **kwargs)

        return drawn


class _Draws:
    """The draws for the layers of a stack in one pass, which skip all but one of its layers at most.

    With LoRA, a pass through no layer would have no gradient.
    """

    def __init__(self, generator: torch.Generator, probability: float, depth: int) -> None:
        self._generator, self._probability, self._left = generator, probability, depth

    def __call__(self) -> Tensor:
        draw = _torchs_rand([], generator=self._generator)
        self._left -= bool(draw < self._probability)
        return draw if self._left else _no_layer()


def _no_layer() -> Tensor:
    """A draw by which a layer is not skipped."""
    return torch.ones([])


def _depth(stack: nn.Module) -> int:
    """The number of layers of a stack; Flaubert has no list of them, but one of their attentions."""
    layers = getattr(stack, "layers", None)
    return len(stack.attentions if layers is None else layers)  # type: ignore[arg-type]


def describe_layer_drop(model: nn.Module) -> str | None:
    """One line on how likely a step skips a layer; None if it skips none."""
    found = sorted({probability for module in model.modules() if (probability := _probability(module)) > 0})
    if not found:
        return None
    numbers = " or ".join(f"{probability:g}" for probability in found)
    return (
        f"a step skips a layer with probability {numbers} (LayerDrop), the same layers on all ranks; model.layerdrop=0 "
        "turns it off"
    )


def _probability(module: nn.Module) -> float:
    value = getattr(module, "layerdrop", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


@contextmanager
def _scalars_from(draw: Callable[[], Tensor]) -> Iterator[None]:
    """Makes `torch.rand([])`, with which a stack draws for each of its layers, return a draw of this function.

    Nothing else changes: dropout draws other shapes, by other functions.
    """

    def rand(*size: Any, **how: Any) -> Tensor:
        return _torchs_rand(*size, **how) if size not in (([],), ((),)) or how else draw()

    before, torch.rand = torch.rand, rand
    try:
        yield
    finally:
        torch.rand = before
