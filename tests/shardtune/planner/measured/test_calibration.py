"""A calibration is the same after a file, and what is none is refused."""

import json
from typing import Any

import pytest

from shardtune.planner.measured.calibration import FORMAT, calibration_of
from tests.support.calibrations import calibration, gpu_calibration


@pytest.mark.parametrize("found", [calibration(), gpu_calibration()])
def test_it_survives_json(found: Any) -> None:
    assert calibration_of(json.loads(json.dumps(found.as_json()))) == found


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"format": FORMAT},
        calibration().as_json() | {"format": FORMAT + 1},
        calibration().as_json() | {"cpus": [{"ranks": 1}]},
        calibration().as_json() | {"cpus": 3},
    ],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        calibration_of(value)


def test_a_number_of_gpus_that_was_not_measured_is_taken_for_the_largest_that_was() -> None:
    assert calibration().on_gpus(8) is None and calibration().on_cpus(3) is None
    layout = gpu_calibration().on_gpus(4)
    assert layout is not None and layout.ranks == 8
