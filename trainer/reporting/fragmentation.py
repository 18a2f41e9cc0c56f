"""Whether the memory of a GPU is full of pieces that no tensor fits into. Pure arithmetic on bytes by rank."""

from collections.abc import Sequence

FULL = 0.9
"""A GPU is full if torch has reserved this part of it."""
MUCH = 0.15
"""Pieces are much if they are this part of a full GPU."""
MANY_RETRIES = 3
"""A first retry or two come with the first micro-batches; each stops the GPU for tens of milliseconds."""


class Fragmentation:
    """Decides when a lack of whole memory is worth an alert: once in a run."""

    def __init__(self, capacity: float) -> None:
        """`capacity` is the memory of a GPU in bytes."""
        self._capacity = capacity
        self._is_reported = False

    def alert(self, used: Sequence[float], reserved: Sequence[float], retries: Sequence[float]) -> str | None:
        """The text of an alert, or None; the arguments are those of PeakMemory by rank."""
        pieces = [has - needs for needs, has in zip(used, reserved, strict=True)]
        worst = max(range(len(pieces)), key=pieces.__getitem__)
        is_full = reserved[worst] > FULL * self._capacity and pieces[worst] > MUCH * self._capacity
        if self._is_reported or not (is_full or max(retries) >= MANY_RETRIES):
            return None
        self._is_reported = True
        stops = ""
        if max(retries):
            rank = max(range(len(retries)), key=retries.__getitem__)
            stops = f"; rank {rank} stopped its GPU {retries[rank]:.0f} times to gather them"
        return (
            f"up to {pieces[worst] / 1e9:.2f} GB of the GPU of rank {worst} are unused pieces between tensors, of "
            f"{self._capacity / 1e9:.2f} GB{stops}. Set PYTORCH_ALLOC_CONF=expandable_segments:True unless it is set, "
            "or a lower train.micro_batch_tokens"
        )
