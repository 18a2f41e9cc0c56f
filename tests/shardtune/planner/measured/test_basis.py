"""What was measured takes the place of data sheets and constants."""

from dataclasses import replace

import pytest

from shardtune.planner.constants import DEFAULTS
from shardtune.planner.forecast.forecast import forecast
from shardtune.planner.forecast.of_recipe import DataSize
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Cluster
from shardtune.planner.measured.basis import NOTHING, Basis, constants_of, cpu_device, engine_of
from shardtune.planner.measured.corrections import PastRun, subject_of
from shardtune.planner.model_shape import shape_of_sizes
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from tests.support.calibrations import RATE, calibration, gpu_calibration

H100 = find_gpu("h100-sxm-80g")
RECIPE = """
task: {kind: language_modeling}
model: {path: .}
data: {train: rows.txt, max_tokens: 2048}
train: {global_batch_size: 64}
"""


def recipe(deepspeed: str) -> Recipe:
    return parse_recipe(RECIPE, [f"engine.deepspeed={deepspeed}"])


def test_constants_are_those_that_were_measured() -> None:
    assert constants_of(None, H100) is DEFAULTS
    found = constants_of(gpu_calibration(bandwidth_gb_s=2345.0).on_gpus(8), H100)
    assert found.bandwidth == pytest.approx(2345 / H100.bandwidth_gb_s)
    assert found.launch_s == 5e-6
    assert found.sustained["hopper"] == pytest.approx(min(700 / H100.tflops["bf16"], 1.1 * 0.72), rel=0.1)
    # 10^-11 s a byte: 7 of 8 parts go over each link.
    assert found.link == pytest.approx(min(1.0, 7 / 8 / 1e-11 / (H100.link_gb_s * 1e9)))
    assert found.attention == DEFAULTS.attention


def test_a_rate_that_a_short_measurement_shows_is_not_believed_beyond_a_tenth() -> None:
    layout = gpu_calibration().on_gpus(8)
    assert layout is not None
    fast = constants_of(replace(layout, tflops={"bf16": 5000.0}), H100)
    assert fast.sustained["hopper"] == pytest.approx(1.1 * DEFAULTS.sustained["hopper"])


def test_a_plan_for_gpus_uses_their_measurements_and_earlier_runs() -> None:
    shape, cluster, data = shape_of_sizes(7e9, 32), Cluster(gpu=H100), DataSize(1000, 1000)
    usual = forecast(recipe("zero3"), shape, cluster, data)
    slow = Basis(gpu_calibration(bandwidth_gb_s=1000.0))
    assert forecast(recipe("zero3"), shape, cluster, data, basis=slow).step.total_s > usual.step.total_s
    subject = subject_of(usual.planned.average, "zero3")
    learned = forecast(recipe("zero3"), shape, cluster, data, basis=Basis(runs=[PastRun(subject, 1.2, 1.1)]))
    assert learned.step.total_s == pytest.approx(1.2 * usual.step.total_s)
    assert learned.memory.used - usual.memory.used == pytest.approx(0.1 * usual.memory.allocated)
    assert learned.spread == 1.15 and usual.spread == 1.25
    assert forecast(recipe("zero3"), shape, cluster, data, basis=NOTHING) == usual


def test_a_rank_on_processors_has_the_rate_of_its_fastest_product() -> None:
    layout = calibration().on_cpus(2)
    assert layout is not None
    device = cpu_device(layout, "fp32", 2**30)
    assert device.is_cpu and device.memory_gib == 1
    assert device.tflops == {"fp32": pytest.approx(2 * RATE / 1e12)}


@pytest.mark.parametrize(
    ("deepspeed", "stage", "offloads", "engine"),
    [
        ("null", None, False, "null"),
        ("zero2", 2, False, "zero2"),
        ("zero3", 3, False, "zero3"),
        ("zero0", 0, False, None),
        ("zero2_offload", 2, True, None),
    ],
)
def test_a_strategy_has_the_time_of_its_own_engine_or_none(
    deepspeed: str, stage: int | None, offloads: bool, engine: str | None
) -> None:
    assert engine_of(recipe(deepspeed), stage, offloads=offloads) == engine
