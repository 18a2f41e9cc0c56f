"""What is measured of GPUs, on a CPU in their place: the same calls with fewer numbers."""

import pytest
import torch

from shardtune.planner.measured.calibration import Calibration, calibration_of
from shardtune.trainer.calibration import gpus
from shardtune.trainer.calibration.timing import Clock
from shardtune.trainer.distributed.ranks import Ranks
from tests.support.ranks import run_ranks
from tests.trainer.calibration.test_measure import LITTLE


@pytest.mark.parametrize(("has_bf16", "names"), [(True, {"bf16", "fp16", "fp32", "tf32"}), (False, {"fp16", "fp32"})])
def test_gpus_are_measured_in_each_precision_they_have(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, names: set[str]
) -> None:
    monkeypatch.setattr(gpus, "has_bf16", lambda device: has_bf16)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    for name, size in {"SIZE": 32, "COPY_BYTES": 2**12, "LENGTH": 16, "HEADS": 2, "LAUNCHES": 10}.items():
        monkeypatch.setattr(gpus, name, size)

    def body(ranks: Ranks) -> tuple[dict[str, object], str]:
        found = gpus.measure_gpus(Clock(ranks, LITTLE))
        return Calibration("machine", gpus=(found,)).as_json(), torch.get_float32_matmul_precision()

    content, precision = run_ranks(body, world_size=2)[0]
    (layout,) = calibration_of(content).gpus
    assert layout.ranks == 2 and set(layout.tflops) == names and layout.links is not None
    assert min(layout.bandwidth_gb_s, layout.attention_tflops, layout.launch_s, layout.host_copy_gb_s) > 0
    assert precision == "highest"
