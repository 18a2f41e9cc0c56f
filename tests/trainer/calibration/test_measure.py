"""Measuring gives every number that a plan needs, whatever the effort; no number is compared with a time."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shardtune.planner.measured.calibration import (
    ATTENTION,
    ELEMENTWISE,
    FAMILIES,
    PRODUCTS,
    Calibration,
    calibration_of,
)
from shardtune.trainer.calibration import engines, measure
from shardtune.trainer.calibration.links import disk_rate, tokens_rate
from shardtune.trainer.calibration.operations import measure_products
from shardtune.trainer.calibration.passes import whole_pass
from shardtune.trainer.calibration.timing import Clock, Effort, quartile
from shardtune.trainer.distributed.ranks import Ranks
from tests.support.ranks import run_ranks

LITTLE = Effort(
    each_s=1e-5,
    operations=1e5,
    token_sizes=(2, 4),
    feature_sizes=(8, 16),
    elements=(512, 1024),
    lengths=(4, 8),
    parameters=(2**13, 2**14),
    messages=(64, 256),
    steps=2,
    tokens=64,
)


def measured(ranks: Ranks, folder: Path) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    found = measure.measure(Clock(ranks, LITTLE), "machine", folder, time.time() - 1, said.append)
    return found.as_json(), said


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibration, list[str]]:
    with pytest.MonkeyPatch.context() as patch:  # the other engines take seconds, and are measured in the same way
        patch.setattr(engines, "ENGINES", ("null", "zero2"))
        patch.setattr(measure, "has_bf16", lambda device: False)
        content, said = run_ranks(measured, tmp_path_factory.mktemp("runs"))[0]
    return calibration_of(json.loads(json.dumps(content))), said


def test_all_that_a_plan_needs_is_measured_on_both_ranks_at_once(of_two_ranks: tuple[Calibration, list[str]]) -> None:
    found, said = of_two_ranks
    (layout,) = found.cpus
    assert (layout.ranks, layout.threads) == (2, 1)
    assert found.disk_gb_s and found.tokens_per_s and found.start_s and layout.copy_bytes_per_s > 0
    assert layout.links is not None and layout.links.barrier_s > 0
    computing = layout.computing["fp32"]
    for names, parts in (
        (PRODUCTS, computing.products),
        (ELEMENTWISE, computing.elementwise),
        (ATTENTION, computing.attention),
        (("null", "zero2"), computing.engines),
        (FAMILIES, computing.passes),
    ):
        assert set(names) == set(parts)
    assert any("fp32" in text for text in said)


def test_a_product_that_would_take_long_is_as_fast_as_the_fastest_that_is_a_step_smaller() -> None:
    def body(ranks: Ranks) -> tuple[tuple[float, ...], ...]:
        found = measure_products(Clock(ranks, replace(LITTLE, operations=300.0)), torch.float32)["forward"]
        return found.rows, found.inner, found.columns, found.seconds

    ((rows, inner, columns, seconds),) = run_ranks(body, world_size=1)
    assert (rows, inner, columns) == ((2.0, 4.0), (8.0, 16.0), (8.0, 16.0))
    # 2 x 8 x 16 = 256 multiplications are measured, 2 x 16 x 16 = 512 are not.
    assert seconds[3] == pytest.approx(2 * min(seconds[1], seconds[2]))


def test_two_passes_tell_what_operations_and_calls_take() -> None:
    found = whole_pass((0.014, 0.005), (0.114, 0.085))
    assert found.factor == pytest.approx(1.25)
    assert found.layer_s == pytest.approx((0.014 - 1.25 * 0.005) / 4)


def test_passes_that_were_disturbed_explain_nothing_absurd() -> None:
    found = whole_pass((0.2, 0.005), (0.1, 0.085))
    assert 0.5 <= found.factor <= 3 and found.layer_s >= 0


def test_a_quarter_of_the_values_is_not_slower() -> None:
    assert quartile([5.0, 1.0, 9.0, 2.0]) == 2.0


def test_a_folder_that_cannot_be_written_to_has_no_rate(tmp_path: Path) -> None:
    assert disk_rate(tmp_path / "missing") is None
    assert (disk_rate(tmp_path, 2**20) or 0) > 0
    assert tokens_rate(num_texts=20) > 0


def test_the_model_of_an_engine_has_the_elements_that_are_asked_for() -> None:
    model = engines._Weights(2**13, 16)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2**13
    assert len([*model.parameters()]) == 16
