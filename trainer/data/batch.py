"""How the rows of one optimizer step are dealt to ranks and cut into micro-batches, and what a batch is.

Every rank computes the whole deal from the lengths alone, so all know each other's share without a word between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.tasks.task import IGNORED, IGNORED_NUMBER

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes: one micro-batch of padded rows."""

    inputs: dict[str, Tensor]
    """The model's keyword arguments, each of shape (rows, longest) or (rows, …)."""
    labels: Tensor
    """IGNORED where there is no target (IGNORED_NUMBER if they are real numbers); shape (rows,) or (rows, …)."""
    weights: Tensor | None = None
    """How much each target counts in the loss, of the labels' shape; None if all count alike."""

    def to(self, device: torch.device) -> "Batch":
        """The same on the device. To a GPU it is copied from pinned memory, and nobody waits for it."""

        def moved(tensor: Tensor) -> Tensor:
            its = tensor.pin_memory() if device.type == "cuda" and not tensor.is_cuda else tensor
            return its.to(device, non_blocking=True)

        inputs = {name: moved(tensor) for name, tensor in self.inputs.items()}
        return Batch(inputs, moved(self.labels), None if self.weights is None else moved(self.weights))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, longest), or 1 and all of them where rows are laid end to end."""
        rows, longest = self.inputs["input_ids"].shape
        return rows, longest

    @property
    def targets(self) -> Tensor:
        """Where there is a target; of the labels' shape."""
        return ~self.labels.isnan() if self.labels.is_floating_point() else self.labels != IGNORED

    @property
    def num_targets(self) -> Tensor:
        """How many targets there are, or the sum of their weights; a scalar."""
        return self.targets.sum() if self.weights is None else self.weights[self.targets].sum(dtype=torch.float64)

    def muted(self) -> "Batch":
        """The same inputs without a target: its loss and its gradient are zero."""
        ignored = IGNORED_NUMBER if self.labels.is_floating_point() else IGNORED
        labels = torch.full_like(self.labels, ignored)
        wanted = {"targets": labels} if "targets" in self.inputs else {}
        return replace(self, inputs={**self.inputs, **wanted}, labels=labels)


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """The rows as an int64 tensor of shape (rows, longest), filled up on the right."""
    padded = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = torch.as_tensor(row)
    return padded


def deal(lengths: NDArray[np.int32], *, world_size: int, micro_batch_tokens: int) -> list[list[Positions]]:
    """The micro-batches of each rank: positions in `lengths`, by [rank][micro_batch].

    Each position is dealt once and all ranks get the same number of micro-batches, an empty one where rows are fewer. A
    micro-batch holds at most micro_batch_tokens tokens with padding (or a single row). Rows of like length go together,
    as few micro-batches as the budget allows are cut, and they are cut so that the costliest costs least.
    """
    longest_first = np.argsort(-lengths.astype(np.int64), kind="stable")
    sizes = lengths[longest_first].astype(np.int64)
    num_micro_batches = -(-len(_cut(sizes, micro_batch_tokens=micro_batch_tokens)) // world_size)
    num_cuts = num_micro_batches * world_size
    # The smallest cost limit that needs no more cuts: between a single longest row's and everything's in one.
    low, high = int(cost(sizes[0], 1)) - 1, int(cost(sizes[0], len(sizes))) + 1
    while high - low > 1:
        limit = (low + high) // 2
        fits = len(_cut(sizes, micro_batch_tokens=micro_batch_tokens, max_cost=limit)) <= num_cuts
        low, high = (low, limit) if fits else (limit, high)
    cuts = _cut(sizes, micro_batch_tokens=micro_batch_tokens, max_cost=high)
    pieces = np.split(longest_first, np.cumsum(cuts)[:-1])
    pieces = _split_to(pieces, num_cuts)
    # Neighbours in cost run at the same time on different ranks; every other round goes backwards, to even out the sum.
    rounds = [pieces[start : start + world_size] for start in range(0, num_cuts, world_size)]
    return [
        [round_[rank] if number % 2 == 0 else round_[-1 - rank] for number, round_ in enumerate(rounds)]
        for rank in range(world_size)
    ]


def cost(longest: np.int64 | int, num_rows: int) -> float:
    """What a forward and backward pass over so many rows costs, in tokens of very short rows."""
    # Attention's quadratic term against the linear rest of a layer: s / 6h (Narayanan et al., 2021, section 5.1: flops
    # of a layer 24 b s h^2 (1 + s / 6h)), at a hidden size of 1024.
    return float(longest) * num_rows * (1 + float(longest) / 6144)


def _cut(sizes: NDArray[np.int64], *, micro_batch_tokens: int, max_cost: float = float("inf")) -> list[int]:
    """How many rows each micro-batch takes when every one is filled up in turn; `sizes` in falling order."""
    counts: list[int] = []
    start = 0
    while start < len(sizes):
        longest = int(sizes[start])
        room = min(micro_batch_tokens / longest, max_cost / cost(longest, 1), len(sizes) - start)
        counts.append(max(1, int(room)))
        start += counts[-1]
    return counts


def _split_to(pieces: list[Positions], number: int) -> list[Positions]:
    """Halves the largest pieces until there are so many; empty ones at the end if the rows run out."""
    pieces = list(pieces)
    while len(pieces) < number:
        largest = max(range(len(pieces)), key=lambda at: len(pieces[at]))
        if len(pieces[largest]) < 2:
            return pieces + [np.empty(0, dtype=np.int64)] * (number - len(pieces))
        pieces[largest : largest + 1] = np.array_split(pieces[largest], 2)
    return pieces
