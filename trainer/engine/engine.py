"""The protocol between the training loop and the engine that computes a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.regularize.penalty import Fisher
from shardtune.trainer.engine.snapshot import Saved, Snapshot
from shardtune.trainer.tasks.batch import Batch


@dataclass(frozen=True)
class StepStats:
    """Result of one optimizer step."""

    lr: float
    grad_norm: float
    """2-norm of the gradient of the step's mean loss, over all parameters, before clipping."""
    applied: bool
    """False if the weights did not change: the gradient was non-finite on some rank (in fp16, at the current loss
    scale), or the step was skipped."""
    compute_s: float = 0.0
    """Seconds of this rank's forward passes, without waiting for other ranks (trainer/engine/stopwatch.py)."""
    penalty: Tensor | None = None
    """This rank's part of what `regularize` adds to the loss, before the update; None without it, or if the weights did
    not change."""


class Inference(Protocol):
    """Computes outputs. Collective: all ranks call it, in the same order, unless each of them has the whole model."""

    def forward(self, batch: Batch) -> Any:
        """Returns the model's output."""

    def evaluating(self, *, averaged: bool = True) -> Any:
        """Context manager: no dropout, no gradients. The model has the moving average of its weights meanwhile, if
        there is one and it is not to be without."""

    def generate(self, inputs: dict[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """Returns the token ids of the model's answers without the prompts; shape (rows, longest answer)."""


class Engine(Inference, Protocol):
    """Computes steps. Everything but the numbers of parameters is Collective: all ranks call it, in the same order."""

    num_parameters: int
    num_trained: int
    """Number of trained parameters; the others stay as they are."""

    @property
    def zero_stage(self) -> int | None:
        """ZeRO stage, or None without DeepSpeed; then, and in stage 0, every rank has all weights."""

    def begin_step(self, number: int, *, num_micro_batches: int) -> None:
        """Begins a step of this many forward and backward passes; with 0, the step is skipped."""

    def backward(self, loss_sum: Tensor, *, num_targets: float) -> None:
        """Adds to the gradient of the mean loss over the num_targets targets that all ranks have in this step."""

    def step(self, *, lr: float) -> StepStats:
        """Updates the weights once."""

    def hold_weights(self, fisher: Fisher | None = None) -> None:
        """Holds the weights near the present ones in all updates, as the optimizer's groups and `fisher` say."""

    def gathered(self, module: nn.Module) -> Any:
        """Context manager: the module's own parameters are whole, to be read, and not to be changed."""

    def average(self, decay: float) -> None:
        """Moves the moving average of the weights towards them by 1 - decay; it begins with them."""

    def rehearsing(self) -> Any:
        """Context manager before training: its steps leave nothing behind, if their lr and their gradients are 0."""

    def snapshot(self) -> Snapshot:
        """Returns this rank's part of all that training changes: views, which the next step overwrites."""

    def restore(self, saved: Saved) -> None:
        """Restores what snapshots of any number of ranks, ZeRO stage and precision saved.

        Raises CheckpointError if they belong to a different model.
        """


def seed_step(seed: int, number: int, ranks: Ranks) -> None:
    """Seeds dropout from (seed, step, rank): nothing has to be saved, and a resumed run repeats the numbers."""
    torch.manual_seed(((seed << 40) + (number << 16) + ranks.rank) % 2**63)
