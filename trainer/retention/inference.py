"""Who computes the outputs for a retention set: the engine, or the engine with another head on its model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import Any

from torch import Tensor

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Inference
from shardtune.trainer.retention.sets import HeldOut
from shardtune.trainer.retention.sibling import Sibling, open_sibling
from shardtune.trainer.setup.first_token import reading_every_token
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch


def open_inference(
    engine: Inference, model: Any, recipe: Recipe, held_out: HeldOut, task: Task, ranks: Ranks
) -> Inference:
    """Who answers the rows of a set with the model of this engine. Raises DataError if the head cannot be had."""
    if held_out.head is None:
        return engine
    own = held_out.recipe.model_copy(update={"engine": recipe.engine})
    try:
        return OtherHead(engine, model, open_sibling(model, own, task, ranks.device))
    except DataError as error:
        raise DataError(f"retention.sets.{held_out.name}: {error}") from error


class OtherHead:
    """The engine of a model, with a sibling of that model computing in its place.

    The sibling is called as the model's own forward method: so the engine sees a pass of its model, and ZeRO-3 gathers
    the weights that the two share.
    """

    def __init__(self, engine: Inference, model: Any, sibling: Sibling) -> None:
        self._engine, self._model, self._sibling = engine, model, sibling
        parameters = signature(type(sibling.model).forward).parameters
        takes_all = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
        self._takes_cache = takes_all or "use_cache" in parameters

    def forward(self, batch: Batch) -> Any:
        with reading_every_token(self._model), self._in_place():
            return self._engine.forward(batch)

    @contextmanager
    def evaluating(self, *, averaged: bool = True) -> Iterator[None]:
        with self._engine.evaluating(averaged=averaged), self._sibling.ready():
            yield

    def generate(self, inputs: dict[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        raise AssertionError("a set whose task generates answers is refused when it is prepared")

    def _call(self, **inputs: Any) -> Any:
        if not self._takes_cache:
            inputs.pop("use_cache", None)  # a hook of the model in training adds it
        return self._sibling.model(**inputs)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        before = vars(self._model).get("forward")
        self._model.forward = self._call
        try:
            yield
        finally:
            del self._model.forward
            if before is not None:
                self._model.forward = before
