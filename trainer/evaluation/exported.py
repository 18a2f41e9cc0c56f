"""The exported model as an engine that only computes outputs; each rank has the whole of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from shardtune.trainer.model.known_masks import masks_known
from shardtune.trainer.model.load import generate
from shardtune.trainer.model.target_loss import keep_target_loss
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch


class ExportedModel:
    """The Inference of an exported model, in the dtype in which it was loaded."""

    def __init__(self, model: Any, task: Task) -> None:
        """Makes the model compute the loss of its targets, if the task wants that."""
        self._model = model
        if task.wants_target_loss:
            keep_target_loss(model)

    def forward(self, batch: Batch) -> Any:
        with masks_known(batch):
            return self._model(**batch.arrived().inputs)

    @contextmanager
    def evaluating(self, *, averaged: bool = True) -> Iterator[None]:
        self._model.eval()
        with torch.no_grad():
            yield

    def generate(self, inputs: dict[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        return generate(self._model, inputs, settings)
