"""Whether a classifier's probabilities are right: of the texts of which it is 80 % sure, is it right about 80 %?

Expected calibration error, and the temperature that mends it (Guo et al., 2017, "On calibration of modern neural
networks", sections 2 and 4.2). Both come from sums over rows: the error from what falls into each bin of confidence,
the temperature from the loss at each of a grid of temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NUM_BINS = 15
TEMPERATURES = tuple(10 ** (at / 20) for at in range(-20, 21))
"""From 0.1 to 10, each 12 % above the one before; between them the loss is taken for a parabola."""


def confidence_of(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The probability of the likeliest label, of shape (rows,), from float32 logits of shape (rows, labels)."""
    return (logits / temperature).softmax(-1).amax(-1)


def count_bins(confidence: Tensor, right: Tensor, times: Tensor | None = None) -> Tensor:
    """(rows, right rows, sum of confidence) of each bin; float64 of shape (3, NUM_BINS).

    `confidence` and `right` have the shape (rows,), and `times` says how often each row counts.
    """
    import torch

    weights = torch.ones_like(confidence, dtype=torch.float64) if times is None else times.double()
    bins = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    columns = torch.stack((weights, weights * right, weights * confidence.double()))
    return columns.new_zeros(3, NUM_BINS).index_add_(1, bins, columns)


def calibration_error(bins: Tensor) -> float:
    """The mean distance of confidence from accuracy over the bins, weighted by their rows."""
    rows, right, confidence = bins.double()
    return float((right - confidence).abs().sum() / rows.sum().clamp(min=1))


def losses_by_temperature(logits: Tensor, true: Tensor) -> Tensor:
    """The cross entropy at each of TEMPERATURES, summed over the rows; float64 of shape (temperatures,)."""
    import torch
    from torch.nn.functional import cross_entropy

    losses = [cross_entropy(logits / temperature, true, reduction="sum").double() for temperature in TEMPERATURES]
    return torch.stack(losses)


def best_temperature(losses: Tensor) -> float:
    """The temperature with the lowest loss, from those of TEMPERATURES."""
    at = int(losses.argmin())
    logs = [math.log(temperature) for temperature in TEMPERATURES]
    if not 0 < at < len(logs) - 1:
        return TEMPERATURES[at]
    before, here, after = losses[at - 1 : at + 2].tolist()
    curvature = before - 2 * here + after
    shift = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
    return math.exp(logs[at] + shift * (logs[1] - logs[0]))


def calibration_metrics(totals: Mapping[str, Tensor], temperature: float | None) -> dict[str, Any]:
    """`ece`; and either `calibration.temperature`, found here, or where that is known, `ece_scaled` by it."""
    metrics: dict[str, Any] = {"ece": calibration_error(totals["bins"])}
    if "losses_by_temperature" in totals:
        metrics["calibration"] = {"temperature": best_temperature(totals["losses_by_temperature"])}
    if temperature is not None:
        metrics["ece_scaled"] = calibration_error(totals["bins_scaled"])
    return metrics
