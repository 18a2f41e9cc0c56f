"""Calibration error and temperature are those of their definitions, from sums over rows."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from shardtune.trainer.tasks.classification.calibration import (
    NUM_BINS,
    best_temperature,
    calibration_error,
    confidence_of,
    count_bins,
    losses_by_temperature,
)


def sample(sharpness: float) -> tuple[Tensor, Tensor]:
    """Logits `sharpness` times as large as those from which the labels were drawn."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(4000, 3)
    return logits * sharpness, torch.multinomial(logits.softmax(-1), 1)[:, 0]


def bins_of(logits: Tensor, true: Tensor, temperature: float = 1.0) -> Tensor:
    return count_bins(confidence_of(logits, temperature), logits.argmax(-1) == true)


def test_the_error_is_the_mean_distance_of_confidence_and_accuracy_over_the_bins() -> None:
    logits, true = sample(2.0)
    confidence = logits.softmax(-1).max(-1).values.numpy()
    right = (logits.argmax(-1) == true).numpy()
    expected = 0.0
    for at in range(NUM_BINS):
        chosen = (confidence >= at / NUM_BINS) & ((confidence < (at + 1) / NUM_BINS) | (at == NUM_BINS - 1))
        if chosen.any():
            expected += chosen.mean() * abs(right[chosen].mean() - confidence[chosen].mean())
    assert calibration_error(bins_of(logits, true)) == pytest.approx(float(expected), abs=1e-6)


def test_bins_of_parts_add_up_and_a_row_may_count_several_times() -> None:
    logits, true = sample(1.0)
    whole = bins_of(logits, true)
    torch.testing.assert_close(bins_of(logits[:7], true[:7]) + bins_of(logits[7:], true[7:]), whole)
    twice = count_bins(confidence_of(logits), logits.argmax(-1) == true, torch.full((4000,), 2))
    torch.testing.assert_close(twice, 2 * whole)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_has_the_lowest_loss_and_mends_the_error(sharpness: float) -> None:
    logits, true = sample(sharpness)
    found = best_temperature(losses_by_temperature(logits, true))
    exact = minimize_scalar(lambda t: float(cross_entropy(logits / t, true)), bounds=(0.1, 10), method="bounded").x
    assert found == pytest.approx(exact, rel=0.01)
    assert found == pytest.approx(sharpness, rel=0.1)
    before, after = calibration_error(bins_of(logits, true)), calibration_error(bins_of(logits, true, found))
    assert after < 0.02 and (after < before / 3 or sharpness == 1.0)


def test_a_loss_that_only_falls_has_the_last_temperature() -> None:
    assert best_temperature(torch.from_numpy(np.arange(41.0))) == pytest.approx(0.1)
    assert best_temperature(torch.from_numpy(np.arange(41.0)[::-1].copy())) == pytest.approx(10)
