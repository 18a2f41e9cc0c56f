"""A micro-batch as tensors, and how rows are padded into one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from shardtune.trainer.tasks.example import IGNORED, IGNORED_NUMBER


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass: a micro-batch of padded rows."""

    inputs: dict[str, Any]
    """The model's keyword arguments: tensors of shape (rows, longest) or (rows, …), and what with_masks adds to them
    (trainer/tasks/masks.py)."""
    labels: Tensor
    """IGNORED where there is no target (IGNORED_NUMBER if labels are real numbers); shape (rows,) or (rows, …)."""
    weights: Tensor | None = None
    """The weight of each target in the loss, in the shape of the labels; None if all are equal."""

    def to(self, device: torch.device) -> "Batch":
        """The batch on the device. Copies to a GPU are asynchronous, from pinned memory."""

        def moved(tensor: Any) -> Any:
            if not isinstance(tensor, Tensor):
                return tensor
            source = tensor.pin_memory() if device.type == "cuda" and not tensor.is_cuda else tensor
            return source.to(device, non_blocking=True)

        inputs = {name: moved(tensor) for name, tensor in self.inputs.items()}
        return Batch(inputs, moved(self.labels), None if self.weights is None else moved(self.weights))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, longest); (1, all tokens) where rows are concatenated."""
        rows, longest = self.inputs["input_ids"].shape
        return rows, longest

    @property
    def targets(self) -> Tensor:
        """Where there is a target: a mask in the shape of the labels."""
        return ~self.labels.isnan() if self.labels.is_floating_point() else self.labels != IGNORED

    @property
    def num_targets(self) -> Tensor:
        """The number of targets, or the sum of their weights; a scalar."""
        return self.targets.sum() if self.weights is None else self.weights[self.targets].sum(dtype=torch.float64)

    def muted(self) -> "Batch":
        """The batch without targets: its loss and its gradient are zero."""
        ignored = IGNORED_NUMBER if self.labels.is_floating_point() else IGNORED
        labels = torch.full_like(self.labels, ignored)
        targets = {"targets": labels} if "targets" in self.inputs else {}
        return replace(self, inputs={**self.inputs, **targets}, labels=labels)


def padded_inputs(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """The token ids padded on the right, as `input_ids`, and their `attention_mask`; both of shape (rows, longest)."""
    return {"input_ids": pad(rows, pad_id), "attention_mask": pad([[1] * len(row) for row in rows], 0)}


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """The rows as an int64 tensor of shape (rows, longest), padded with this value on the right."""
    padded = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = torch.as_tensor(row)
    return padded
