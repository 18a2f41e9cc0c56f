"""What a model learns depends on the recipe, never on how the step is computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.tasks.example import IGNORED
from tests.support.runs import STEPS_PER_EPOCH, curve, tiny_recipe, train

Events = list[dict[str, Any]]


def assert_same_training(events: Events, other: Events) -> None:
    """The same loss and gradient norm in each step, and the same metrics in each evaluation."""
    assert len(curve(events)) == len(curve(other)) == 3 * STEPS_PER_EPOCH
    for (step, loss, norm), (_, other_loss, other_norm) in zip(curve(events), curve(other), strict=True):
        assert loss == pytest.approx(other_loss, rel=1e-4), f"loss of step {step}"
        assert norm == pytest.approx(other_norm, rel=1e-3), f"grad_norm of step {step}"
    for one, two in zip(evaluations(events), evaluations(other), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        assert one["confusion"] == two["confusion"]


def evaluations(events: Events) -> Events:
    return [event for event in events if event["event"] == "eval"]


@pytest.fixture(scope="module")
def reference(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Events:
    """One rank, ZeRO-0, each step one micro-batch."""
    recipe = tiny_recipe(tiny, "engine.deepspeed=zero0")
    return train(recipe, tmp_path_factory.mktemp("reference"), world_size=1)[1]


def test_the_reference_learns(reference: Events) -> None:
    losses = [loss for _, loss, _ in curve(reference)]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(norm > 0 for _, _, norm in curve(reference))


@pytest.mark.parametrize(
    ("world_size", "strategy", "micro_batch_tokens"),
    [
        (1, "zero2", 64),
        (2, "zero0", 64),
        (2, "zero1", 16384),
        (2, "zero2", 16384),
        (2, "zero3", 64),
        (4, "zero2", 64),
        (4, "zero3", 16384),
        (1, "null", 16384),
        (3, "null", 64),
    ],
)
def test_ranks_zero_stages_and_ragged_micro_batches_change_nothing(
    tiny: Path, tmp_path: Path, reference: Events, world_size: int, strategy: str, micro_batch_tokens: int
) -> None:
    recipe = tiny_recipe(tiny, f"engine.deepspeed={strategy}", f"train.micro_batch_tokens={micro_batch_tokens}")
    assert_same_training(train(recipe, tmp_path, world_size=world_size)[1], reference)


def mean_over_micro_batches() -> None:
    """Breaks this process: a step's gradient is the mean of its micro-batches' means."""
    right_backward, right_forward, right_begin = (
        DeepSpeedEngine.backward,
        DeepSpeedEngine.forward,
        DeepSpeedEngine.begin_step,
    )

    def begin_step(self: Any, number: int, *, num_micro_batches: int) -> None:
        self.passes = num_micro_batches * self._ranks.world_size
        right_begin(self, number, num_micro_batches=num_micro_batches)

    def forward(self: Any, batch: Any) -> Any:
        self.targets = max(1, int((batch.labels != IGNORED).sum()))
        return right_forward(self, batch)

    def backward(self: Any, loss_sum: Tensor, *, num_targets: int) -> None:
        right_backward(self, loss_sum / self.targets, num_targets=self.passes)

    DeepSpeedEngine.begin_step, DeepSpeedEngine.forward, DeepSpeedEngine.backward = begin_step, forward, backward  # type: ignore[method-assign]


def forgotten_ranks() -> None:
    """Breaks this process: the gradient is averaged over the ranks once more than it should be."""
    right = DeepSpeedEngine.backward

    def backward(self: Any, loss_sum: Tensor, *, num_targets: int) -> None:
        right(self, loss_sum / self._ranks.world_size, num_targets=num_targets)

    DeepSpeedEngine.backward = backward  # type: ignore[method-assign]


@pytest.mark.parametrize("broken", [mean_over_micro_batches, forgotten_ranks])
def test_a_wrong_normalisation_is_seen(
    tiny: Path, tmp_path: Path, reference: Events, broken: Callable[[], None]
) -> None:
    recipe = tiny_recipe(tiny, "train.micro_batch_tokens=64")
    events = train(recipe, tmp_path, world_size=2, before=broken)[1]
    with pytest.raises(AssertionError):
        assert_same_training(events, reference)
