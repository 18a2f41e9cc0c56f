"""What counts as a bad step, and as a loss spike."""

import math
import random

import pytest

from shardtune.trainer.between_steps.guard.spikes import FEWEST, WINDOW, is_bad, spike_limit, with_loss
from shardtune.trainer.engine.engine import StepStats

FINE, SKIPPED = StepStats(1e-3, 1.0, True), StepStats(1e-3, math.inf, False)


@pytest.mark.parametrize(
    ("loss", "stats", "precision", "bad"),
    [
        (1.0, FINE, "bf16", False),
        (math.nan, FINE, "bf16", True),
        (math.inf, FINE, "fp16", True),
        (1.0, SKIPPED, "fp32", True),
        (1.0, SKIPPED, "fp16", False),  # the loss scale goes down, as it is meant to
        (math.nan, SKIPPED, "fp16", True),
    ],
)
def test_a_step_is_bad_if_its_loss_or_its_gradient_is_non_finite(
    loss: float, stats: StepStats, precision: str, bad: bool
) -> None:
    assert is_bad(loss, stats, precision) == bad


def test_a_jump_is_measured_by_the_losses_before_it() -> None:
    chosen = random.Random(0)
    losses = [2.0 + chosen.gauss(0, 0.1) for _ in range(1000)]
    recent: tuple[float, ...] = ()
    for loss in losses:
        assert loss < spike_limit(recent, 10.0), "noise is no spike"
        recent = with_loss(recent, loss)
    assert len(recent) == WINDOW
    assert 2.8 < spike_limit(recent, 10.0) < 3.3
    # A few wild ones among them do not widen the measure; many become it.
    wild = recent
    for _ in range(10):
        wild = with_loss(wild, 100.0)
    assert spike_limit(wild, 10.0) < 4
    for _ in range(WINDOW):
        wild = with_loss(wild, 100.0)
    assert spike_limit(wild, 10.0) > 100


def test_what_hardly_varies_is_not_measured_too_finely_and_what_is_new_not_at_all() -> None:
    assert spike_limit([1.0] * WINDOW, 10.0) == 1.5
    assert spike_limit([1.0] * (FEWEST - 1), 10.0) == math.inf
    assert spike_limit([1.0] * WINDOW, None) == math.inf
