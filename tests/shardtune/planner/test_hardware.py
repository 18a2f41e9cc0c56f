"""GPUs are found by the names that drivers give them, and none is taken for another."""

import re
from pathlib import Path

import pytest

from shardtune.errors import ConfigError
from shardtune.planner.hardware import find_gpu, gpus_of_file, known_gpus, peak_tflops


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


@pytest.mark.parametrize("name", ["h100", "H100-SXM-80G", "h100 sxm", "NVIDIA H100 80GB HBM3"])
def test_a_gpu_is_found_by_name_alias_and_driver(name: str) -> None:
    assert find_gpu(name).name == "h100-sxm-80g"


def test_an_unknown_gpu_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="unknown GPU 'rtx-4091'; did you mean 'rtx-4090'"):
        find_gpu("rtx-4091")


ENTRY = """
- name: mine
  tflops: {bf16: 100, fp32: 10}
  memory_gib: 12
  bandwidth_gb_s: 500
  sms: 40
  link_gb_s: 16
  network_gb_s: 1
  tdp_w: 200
"""


def test_a_table_of_the_users_adds_gpus(tmp_path: Path) -> None:
    table = tmp_path / "gpus.yaml"
    table.write_text(ENTRY, encoding="utf-8")
    assert find_gpu("mine", gpus_of_file(table)).memory_gib == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read as a table of GPUs"),
        ("{}", "expected a list of GPUs"),
        (ENTRY.replace("memory_gib: 12", "memory_gib: 0"), "GPU 1: memory_gib: expected a number above 0, got 0"),
        (ENTRY.replace("bf16: 100", "bf17: 100"), "GPU 1: tflops: expected a mapping of bf16"),
    ],
)
def test_a_wrong_table_is_one_error_with_the_place(text: str, message: str, tmp_path: Path) -> None:
    table = tmp_path / "gpus.yaml"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        gpus_of_file(table)
