"""A phase ends whatever happens in it, and is not training time."""

import time
from typing import Any

import pytest

from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.distributed.stop import StopAsked
from shardtune.trainer.engine.engine import StepStats
from shardtune.trainer.model.flops import ModelFlops
from shardtune.trainer.reporting.compute_rate import ComputeRate
from shardtune.trainer.reporting.meter import Meter
from shardtune.trainer.reporting.phases import Phases
from shardtune.trainer.reporting.reporter import NullReporter


class Listener(NullReporter):
    def __init__(self) -> None:
        self.names: list[str | None] = []

    def report(self, event: str, /, **values: Any) -> None:
        self.names.append(values["name"])


RATE = ComputeRate(ModelFlops({}, ()), False, 1.0, 1)


def test_a_phase_ends_after_a_stop_too() -> None:
    listener = Listener()
    with pytest.raises(StopAsked), Phases(listener, Meter(1, RATE))("evaluating on dev"):
        raise StopAsked
    assert listener.names == ["evaluating on dev", None]


def test_the_time_of_a_phase_within_a_pause_is_taken_off_once() -> None:
    began = time.monotonic()
    meter = Meter(1, RATE)
    time.sleep(0.2)
    with meter.paused(), Phases(NullReporter(), meter)("saving a checkpoint"):
        paused = time.monotonic()
        time.sleep(0.1)
        paused = time.monotonic() - paused
    meter.add(Step(0, [], 0, 0.0, 0, 0), StepStats(0.0, 0.0, True), 0.0)
    step_time_s = meter.report()["step_time_s"]
    assert 0.2 <= step_time_s <= time.monotonic() - began - paused
