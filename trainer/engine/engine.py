"""The protocol by which the loop speaks to whatever computes a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.snapshot import Saved, Snapshot
from shardtune.trainer.tasks.batch import Batch


@dataclass(frozen=True)
class StepStats:
    """What the engine knows of a step it has done."""

    lr: float
    grad_norm: float
    """2-norm of the gradient of the step's mean loss, over all parameters, before clipping."""
    applied: bool
    """False if the weights stayed as they were: the gradient was no finite number, on whichever rank (in fp16, with the
    loss scale that it had), or the step is left out."""
    compute_s: float = 0.0
    """What this rank's forward passes have taken, without waiting for other ranks (trainer/engine/stopwatch.py)."""


class Engine(Protocol):
    """Computes steps. Everything but the numbers of parameters is Collective: all ranks call it, in the same order."""

    num_parameters: int
    num_trained: int
    """Of them; the others stay as they are."""

    @property
    def zero_stage(self) -> int | None:
        """None without DeepSpeed; then, and in stage 0, every rank has all weights."""

    def begin_step(self, number: int, *, num_micro_batches: int) -> None:
        """Says how many forward and backward passes make up this step; with none, it is left out."""

    def forward(self, batch: Batch) -> Any:
        """The model's output."""

    def backward(self, loss_sum: Tensor, *, num_targets: float) -> None:
        """Adds to the gradient of the mean loss over the step's num_targets targets of all ranks."""

    def step(self, *, lr: float) -> StepStats:
        """Updates the weights once."""

    def evaluating(self) -> Any:
        """A context: no dropout, no gradients."""

    def rehearsing(self) -> Any:
        """A context ahead of all training: steps in it leave nothing behind, if their lr and their gradients are 0."""

    def generate(self, inputs: dict[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """The token ids of the model's answers, without the prompts; shape (rows, longest answer)."""

    def snapshot(self) -> Snapshot:
        """This rank's part of all that training changes: views, which the next step overwrites."""

    def restore(self, saved: Saved) -> None:
        """Goes on from what snapshots of any number of ranks, ZeRO stage and precision held.

        Raises CheckpointError if they were of another model.
        """


def seed_step(seed: int, number: int, ranks: Ranks) -> None:
    """Dropout's random numbers follow from (seed, step, rank): nothing to save, and a resumed run repeats them."""
    torch.manual_seed(((seed << 40) + (number << 16) + ranks.rank) % 2**63)
