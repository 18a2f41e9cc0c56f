"""Devices are found without torch."""

import os
from pathlib import Path

import pytest

from launcher.execute import find_machine


@pytest.fixture
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that lists four."""
    listing = "".join(f"echo 'GPU {number}: NVIDIA A100-SXM4-80GB (UUID: GPU-{number})'\n" for number in range(4))
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{listing}")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four_gpus")
def test_nvidia_smi_says_how_many_gpus_there_are() -> None:
    assert find_machine().num_gpus == 4


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(("visible", "num_gpus"), [("0,2", 2), ("GPU-1", 1), ("", 0), ("-1", 0), ("1,-1,2", 1)])
def test_cuda_visible_devices_narrows_them(monkeypatch: pytest.MonkeyPatch, visible: str, num_gpus: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_machine().num_gpus == num_gpus


def test_a_machine_without_nvidia_smi_or_with_a_broken_one_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_machine().num_gpus == 0
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2; exit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert find_machine().num_gpus == 0


def test_the_cores_are_those_that_this_process_may_use() -> None:
    assert find_machine().num_cores == len(os.sched_getaffinity(0))
