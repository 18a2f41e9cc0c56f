"""What nvidia-smi says becomes words; the program is one that says what its documentation has it say."""

from pathlib import Path

import pytest

from shardtune.trainer.preflight import nvidia_smi as its_module
from shardtune.trainer.preflight.nvidia_smi import FIELDS, Gpu, GpuHealth, look_at_gpus

WELL = "0, GPU-aaaa, 0, No, Not Active, Not Active, Not Active, 16, 16"
SICK = "1, GPU-bbbb, 3, Yes, Active, Not Active, Active, 8, 16"
BARE = "0, GPU-cccc, [N/A], [N/A], Not Active, Not Active, [Not Supported], [N/A], [N/A]"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, but for the shell's own."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def nvidia_smi(path: Path, script: str) -> None:
    (path / "nvidia-smi").write_text(f"#!/bin/bash\n{script}\n")
    (path / "nvidia-smi").chmod(0o755)


def test_where_there_is_none_nothing_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(path))
    assert look_at_gpus() is None


def test_of_a_gpu_that_is_well_nothing_is_said_and_of_one_that_is_not_all(path: Path) -> None:
    nvidia_smi(
        path,
        f"""[[ "$*" == "--query-gpu={",".join(FIELDS)} --format=csv,noheader,nounits" ]] || exit 9
echo '{WELL}'; echo '{SICK}'""",
    )
    assert look_at_gpus() == GpuHealth(
        (
            Gpu("0", "GPU-aaaa", ()),
            Gpu(
                "1",
                "GPU-bbbb",
                (
                    "3 uncorrected memory errors since the last reboot",
                    "memory pages waiting to be retired at the next reboot",
                    "its clock is lowered because it is too hot",
                    "its clock is lowered by the power supply",
                    "8 of its 16 PCIe lanes",
                ),
            ),
        )
    )


def test_what_a_gpu_does_not_have_says_nothing(path: Path) -> None:
    nvidia_smi(path, f"echo '{BARE}'")
    assert look_at_gpus() == GpuHealth((Gpu("0", "GPU-cccc", ()),))


def test_a_driver_that_does_not_know_a_field_is_asked_without_it(path: Path) -> None:
    nvidia_smi(
        path,
        """case $* in
*retired_pages.pending*) echo 'Field "retired_pages.pending" is not a valid field to query.'; exit 2 ;;
esac
echo '0, GPU-aaaa, 2, Not Active, Not Active, Not Active, 16, 16'""",
    )
    assert look_at_gpus() == GpuHealth((Gpu("0", "GPU-aaaa", ("2 uncorrected memory errors since the last reboot",)),))


def test_one_that_fails_or_never_answers_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(path, "echo 'Unable to determine the device handle for GPU 0000:3B:00.0: Unknown Error'; exit 15")
    assert look_at_gpus() == GpuHealth(
        failure="exit code 15: Unable to determine the device handle for GPU 0000:3B:00.0: Unknown Error"
    )
    monkeypatch.setattr(its_module, "TIMEOUT_S", 0.2)
    nvidia_smi(path, "exec sleep 60")
    health = look_at_gpus()
    assert health is not None and health.failure is not None and "timed out after 0.2 seconds" in health.failure
