"""What the driver says of the GPUs, and what is reported where it says nothing."""

import math
from typing import Any

import pytest
import torch

from shardtune.trainer.reporting.gpu_sensors import EVERY_S, GpuSensors, render_sensors

CUDA = torch.device("cuda", 0)


class Driver:
    """Answers as torch.cuda does, by NVML: percent, milliwatts, degrees Celsius."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_questions, self.now = 0, 0.0
        for name, value in (("utilization", 93), ("power_draw", 641_000), ("temperature", 58)):
            monkeypatch.setattr(torch.cuda, name, lambda _, value=value: self.answer(value))
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def answer(self, value: int) -> int:
        self.num_questions += 1
        return value


def test_the_driver_is_asked_at_most_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, sensors = Driver(monkeypatch), GpuSensors(CUDA)
    assert sensors.read() == sensors.read() == (0.93, 641.0, 58.0) and driver.num_questions == 3
    driver.now = EVERY_S
    assert sensors.read() == (0.93, 641.0, 58.0) and driver.num_questions == 6


def test_a_driver_that_does_not_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch)

    def fail(_: Any) -> int:
        driver.num_questions += 1
        raise ModuleNotFoundError("pynvml module not found")

    monkeypatch.setattr(torch.cuda, "utilization", fail)
    sensors = GpuSensors(CUDA)
    for driver.now in (0.0, 2 * EVERY_S):
        assert all(map(math.isnan, sensors.read()))
    assert driver.num_questions == 1
    assert all(map(math.isnan, GpuSensors(torch.device("cpu")).read()))


def test_the_values_of_the_ranks_become_one_of_the_job() -> None:
    nan = math.nan
    assert render_sensors([[0.9, 0.7], [600.0, nan], [50.0, 71.0]]) == {
        "gpu_utilization": pytest.approx(0.8),
        "gpu_power_w": 600.0,
        "gpu_temperature_c": 71.0,
    }
    assert render_sensors([[nan, nan]] * 3) == {}
