"""A micro-batch as tensors, and how rows are padded into one."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shardtune.trainer.tasks.example import IGNORED, IGNORED_NUMBER
from shardtune.trainer.tasks.padding import padded_length

TARGET_INPUTS = ("targets", "target_positions", "target_weights")
"""The inputs that only a model with target loss takes (trainer/model/target_loss.py)."""
EACH_TARGET = "each_target"
"""The flag that asks such a model for the loss of each target."""
HIDDEN_OF_TARGETS = "hidden_of_targets"
"""The flag that asks such a model for the inputs of its last layer."""
BASE = "base"
"""What the pretrained model computes for the targets (trainer/model/divergence.py), with which such a model compares
itself."""
_OF_TARGET_LOSS = (*TARGET_INPUTS, EACH_TARGET, HIDDEN_OF_TARGETS, BASE)


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass: a micro-batch of padded rows.

    What depends on its numbers (where its targets are, whether it is padded) is found out when it is made, on the host:
    to ask a GPU would be to wait for it.
    """

    inputs: dict[str, Any]
    """The model's keyword arguments: tensors of shape (rows, longest) or (rows, …), TARGET_INPUTS of shape (targets,),
    EACH_TARGET, HIDDEN_OF_TARGETS, BASE, and what with_masks adds (trainer/tasks/masks.py)."""
    labels: Tensor
    """IGNORED where there is no target (IGNORED_NUMBER if labels are real numbers); shape (rows,) or (rows, …)."""
    weights: Tensor | None = None
    """The weight of each target in the loss, in the shape of the labels; None if all are equal."""
    positions: Tensor = field(init=False, compare=False)
    """The positions of the targets in the flattened labels, in rising order; int64, of shape (targets,)."""
    num_targets: float = field(init=False, compare=False)
    """The number of targets, or the sum of their weights."""
    is_padded: bool = field(init=False, compare=False)
    """Whether the attention mask of shape (rows, longest), if there is one, hides anything."""
    _arrival: Any = field(init=False, compare=False, default=None)
    """The CUDA event behind the copies of this batch to a GPU, if they were issued on another stream."""

    def __post_init__(self) -> None:
        positions = torch.from_numpy(np.flatnonzero(self.targets.numpy()))
        weights = None if self.weights is None else self.weights.flatten().index_select(0, positions)
        object.__setattr__(self, "positions", positions)
        count = float(len(positions)) if weights is None else float(weights.sum(dtype=torch.float64))
        object.__setattr__(self, "num_targets", count)
        mask = self.inputs.get("attention_mask")
        object.__setattr__(self, "is_padded", mask is not None and mask.ndim == 2 and not bool(mask.all()))

    def with_target_inputs(self) -> "Batch":
        """The batch with TARGET_INPUTS, for a model that returns the loss of its targets; made on the host."""
        inputs = {**self.inputs, "targets": self.of_targets(self.labels), "target_positions": self.positions}
        if self.weights is not None:
            inputs["target_weights"] = self.of_targets(self.weights)
        return self._changed(inputs=inputs)

    @property
    def plain_inputs(self) -> dict[str, Any]:
        """The inputs without TARGET_INPUTS: a model answers them with logits."""
        return {name: value for name, value in self.inputs.items() if name not in _OF_TARGET_LOSS}

    def to(self, device: torch.device) -> "Batch":
        """The batch on the device. Copies to a GPU are asynchronous, from pinned memory, on the current stream."""

        def moved(tensor: Tensor) -> Tensor:
            source = tensor.pin_memory() if device.type == "cuda" and not tensor.is_cuda else tensor
            return source.to(device, non_blocking=True)

        return self.mapped(moved)

    def expected(self, arrival: Any) -> "Batch":
        """The batch, copied to a GPU on another stream than the one that computes; `arrival` is the event behind it."""
        return self._changed(_arrival=arrival)

    def arrived(self) -> "Batch":
        """This batch. What the current stream is given to do from now on waits for its copies; the host does not."""
        if self._arrival is not None:
            stream = torch.cuda.current_stream(self.labels.device)
            stream.wait_event(self._arrival)
            for tensor in (*self.inputs.values(), self.labels, self.weights, self.positions):
                if isinstance(tensor, Tensor):
                    tensor.record_stream(stream)  # or the next copies could take its memory while it is in use
        return self

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with this function of each of its tensors, which must not change where the targets are."""
        inputs = {name: function(value) if isinstance(value, Tensor) else value for name, value in self.inputs.items()}
        return self._changed(
            inputs=inputs,
            labels=function(self.labels),
            weights=None if self.weights is None else function(self.weights),
            # Copied once where they are the same.
            positions=inputs["target_positions"]
            if self.inputs.get("target_positions") is self.positions
            else function(self.positions),
        )

    def with_each_target(self) -> "Batch":
        """The batch for which a model with target loss returns the loss of each target in place of their sum."""
        return self._changed(inputs={**self.inputs, EACH_TARGET: True}) if "targets" in self.inputs else self

    def with_hidden_of_targets(self) -> "Batch":
        """The batch for which a model with target loss returns the inputs of its last layer at the targets."""
        return self._changed(inputs={**self.inputs, HIDDEN_OF_TARGETS: True})

    def with_base(self, base: Any) -> "Batch":
        """The batch for which such a model also returns its divergence from the pretrained one, whose BaseTargets this
        is; they are on the device already."""
        return self._changed(inputs={**self.inputs, BASE: base})

    @property
    def has_base(self) -> bool:
        """Whether the divergence from the pretrained model is asked for."""
        return BASE in self.inputs

    def sum_by_row(self, values: Tensor) -> Tensor:
        """The values of the targets, of shape (targets, …), summed in float64 for each row; shape (rows, …)."""
        num_rows = self.labels.shape[0]
        rows = self.positions.div(max(1, self.labels.numel() // num_rows), rounding_mode="floor")
        sums = values.new_zeros((num_rows, *values.shape[1:]), dtype=torch.float64)
        return sums.index_add_(0, rows, values.double())

    @property
    def targets_of_rows(self) -> Tensor:
        """The number of targets of each row, or the sum of their weights; float64 of shape (rows,)."""
        weights = self.labels.new_ones(self.labels.shape) if self.weights is None else self.weights
        return self.sum_by_row(self.of_targets(weights))

    def _changed(self, **fields: Any) -> "Batch":
        """As dataclasses.replace, which would look for the targets again, and wait for a GPU if they are on one."""
        batch = copy(self)
        batch.__dict__.update(fields)
        return batch

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, longest); (1, all tokens) where rows are concatenated."""
        rows, longest = self.inputs["input_ids"].shape
        return rows, longest

    @property
    def targets(self) -> Tensor:
        """Where there is a target: a mask in the shape of the labels."""
        return ~self.labels.isnan() if self.labels.is_floating_point() else self.labels != IGNORED

    def of_targets(self, values: Tensor) -> Tensor:
        """The values at the targets, of shape (targets, …), where values have the shape of the labels, or (…, more)."""
        return values.flatten(0, self.labels.ndim - 1).index_select(0, self.positions)

    def muted(self) -> "Batch":
        """The batch without targets: its loss and its gradient are zero."""
        ignored = IGNORED_NUMBER if self.labels.is_floating_point() else IGNORED
        muted = replace(self, labels=torch.full_like(self.labels, ignored))
        return muted.with_target_inputs() if "targets" in self.inputs else muted


def padded_inputs(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """The token ids padded on the right, as `input_ids`, and their `attention_mask`; both of shape (rows, longest)."""
    return {"input_ids": pad(rows, pad_id), "attention_mask": pad([[1] * len(row) for row in rows], 0)}


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """The rows as an int64 tensor of shape (rows, longest), padded with this value on the right.

    `longest` is rounded up where that is asked for (trainer/tasks/padding.py).
    """
    padded = torch.full((len(rows), padded_length(max(map(len, rows)))), value, dtype=torch.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = torch.as_tensor(row)
    return padded
