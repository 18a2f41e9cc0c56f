"""Whose kernels a run uses for norms, rotary positions and gated activations, and why. Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from shardtune.errors import DataError

INSTALL = "pip install 'shardtune[gpu]'"


@dataclass(frozen=True)
class Observed:
    """What the choice depends on, besides the recipe."""

    device: str
    """`cpu` or `cuda`."""
    model_type: str
    known_types: Collection[str] | None
    """The model types that Liger Kernel has kernels for; None if it is not installed."""
    is_compiled: bool
    """Whether the model is compiled (engine.compile)."""


@dataclass(frozen=True)
class Choice:
    """The kernels of a run."""

    uses_liger: bool
    has_liger_loss: bool
    """Whether Liger's fused linear cross entropy computes the loss of large vocabularies."""
    note: str | None
    """What the user should know, one line; None if nothing was chosen."""


def choose_kernels(wanted: str, observed: Observed) -> Choice:
    """The kernels for this value of engine.kernels. Raises DataError if it is `liger` and that is not possible."""
    if wanted == "torch":
        return Choice(False, False, None)
    fault = _fault(observed)
    if wanted == "liger":
        if fault is not None:
            what, cure = fault
            raise DataError(f"engine.kernels: liger is not possible: {what}; {cure}")
        note = "Liger's norms, rotary positions, gated activations and fused linear cross entropy are used"
        return Choice(True, True, f"engine.kernels: {note}")
    if observed.device == "cpu":
        return Choice(False, False, None)  # there is nothing to choose between
    if fault is not None:
        return Choice(False, False, f"engine.kernels: torch's kernels are used, because {fault[0]}")
    if observed.is_compiled:
        reason = "engine.compile fuses the same operations; liger asks for Liger's"
        return Choice(False, False, f"engine.kernels: torch's kernels are used: {reason}")
    note = f"Liger knows {observed.model_type} models: its norms, rotary positions and gated activations are used"
    return Choice(True, False, f"engine.kernels: {note}, and shardtune's loss; torch uses none of them")


def _fault(observed: Observed) -> tuple[str, str] | None:
    """Why Liger's kernels cannot be used, and what to do about it; None if they can."""
    if observed.device == "cpu":
        return "its kernels run on GPUs only", "set engine.kernels=auto"
    if observed.known_types is None:
        return "Liger Kernel is not installed", INSTALL
    if observed.model_type not in observed.known_types:
        return f"Liger Kernel has no kernels for {observed.model_type} models", "set engine.kernels=auto"
    return None
