"""GPUs are found by the names that drivers give them, and none is taken for another."""

import re

import pytest

from shardtune.planner.hardware import known_gpus, peak_tflops


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA H20", 148),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("AMD Instinct MI300X", 1307.4),
        ("Tesla V100-SXM2-32GB", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce GTX 1080 Ti", None),
        ("NVIDIA A1000 Laptop GPU", None),
    ],
)
def test_the_peak_of_a_gpu_is_found_by_its_name(name: str, bf16: float | None) -> None:
    assert peak_tflops(name, "bf16") == bf16


def test_a_v100_has_tensor_cores_for_fp16_alone() -> None:
    assert peak_tflops("Tesla V100-SXM2-32GB", "fp16") == 125
    assert peak_tflops("Tesla V100-PCIE-16GB", "fp16") == 112


def test_every_gpu_has_a_name_of_its_own_rates_and_a_source() -> None:
    gpus = known_gpus()
    assert len({gpu.name for gpu in gpus}) == len(gpus)
    for gpu in gpus:
        assert re.compile(gpu.pattern) and gpu.source and gpu.tflops["fp32"] > 0
        rates = [gpu.tflops[precision] for precision in ("fp32", "tf32", "fp16") if precision in gpu.tflops]
        assert rates == sorted(rates), gpu.name
