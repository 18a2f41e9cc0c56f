"""What nvidia-smi says becomes words; the program is one that answers as drivers from R418 to R580 do."""

import socket
from pathlib import Path

import pytest

from shardtune.machine import nvidia_smi as asking
from shardtune.trainer.distributed.gpu import own_gpu
from shardtune.trainer.preflight.nvidia_smi import CLOCKS, FIELDS, OLD_CLOCKS, Gpu, GpuHealth, look_at_gpus
from tests.support.fake_nvidia_smi import install_nvidia_smi

HOST = socket.gethostname().split(".")[0]
NOW = ",".join(FIELDS)
OLD = NOW.replace(CLOCKS, OLD_CLOCKS)
OLDEST = OLD.replace("retired_pages.pending,", "")
LISTED = "Not Active, Not Active, Not Active, 16, 16"
FIRST, SECOND = "0000:07:00.0", "0000:0b:00.0"


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, *, fields: str, gpus: list[str], rows: str) -> None:
    """Installs an nvidia-smi that knows these fields only, as each driver knows others, and answers with these lines.

    `rows` are the bash commands that answer --query-remapped-rows.
    """
    lines = "".join(f"echo '{line}'; " for line in gpus)
    install_nvidia_smi(
        folder,
        f"""[[ $2 == --format=csv,noheader,nounits ]] || exit 9
case $1 in
--query-remapped-rows=gpu_bus_id,remapped_rows.pending,remapped_rows.failure) {rows} ;;
--query-gpu=*) for field in $(tr , ' ' <<<"${{1#*=}}"); do
    [[ ,{fields}, == *",$field,"* ]] || {{ echo "Field \\"$field\\" is not a valid field to query."; exit 2; }}
done; {lines} ;;
*) exit 9 ;;
esac""",
        monkeypatch,
    )


def test_where_there_is_none_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look_at_gpus() is None


def test_of_a_gpu_since_ampere_its_rows_are_told_and_of_one_that_is_well_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(  # R535 and later on an A100 or H100
        tmp_path,
        monkeypatch,
        fields=NOW,
        gpus=[
            f"0, 00000000:07:00.0, 0, [N/A], {LISTED}",
            "1, 00000000:0B:00.0, 3, [N/A], Active, Not Active, Active, 8, 16",
        ],
        rows="echo '00000000:07:00.0, No, No'; echo '00000000:0B:00.0, Yes, No'",
    )
    assert look_at_gpus() == GpuHealth(
        (
            Gpu("0", FIRST, ()),
            Gpu(
                "1",
                SECOND,
                (
                    "3 uncorrected memory errors since the last reboot",
                    "its clock is lowered because it is too hot",
                    "its clock is lowered by the power supply",
                    "8 of its 16 PCIe lanes",
                    "memory rows waiting to be remapped at the next reset of the GPU",
                ),
            ),
        )
    )


@pytest.mark.parametrize("sign", ["Yes", "1"])  # drivers write one or the other
def test_a_row_that_could_not_be_remapped_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    rows = f"echo '00000000:07:00.0, 0, {sign}'"
    driver(tmp_path, monkeypatch, fields=NOW, gpus=[f"0, 00000000:07:00.0, 0, [N/A], {LISTED}"], rows=rows)
    failed = "a faulty memory row could not be remapped; the GPU has to be replaced"
    assert look_at_gpus() == GpuHealth((Gpu("0", FIRST, (failed,)),))


def test_a_driver_before_r535_is_asked_for_the_same_by_the_old_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(  # R450 to R525, on a V100, which retires pages
        tmp_path,
        monkeypatch,
        fields=OLD,
        gpus=["0, 00000000:07:00.0, 2, Yes, Not Active, Active, Not Active, 16, 16"],
        rows="echo '00000000:07:00.0, [N/A], [N/A]'",
    )
    health = look_at_gpus()
    assert health is not None and health.gpus[0].ails == (
        "2 uncorrected memory errors since the last reboot",
        "memory pages waiting to be retired at the next reboot",
        "its clock is lowered because it is getting too hot",
    )


def test_a_driver_that_knows_neither_rows_nor_a_field_is_asked_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(  # R418
        tmp_path,
        monkeypatch,
        fields=OLDEST,
        gpus=[f"0, 00000000:07:00.0, 2, {LISTED}"],
        rows="echo 'ERROR: Option --query-remapped-rows is not recognized.'; exit 2",
    )
    assert look_at_gpus() == GpuHealth((Gpu("0", FIRST, ("2 uncorrected memory errors since the last reboot",)),))


def test_what_a_gpu_does_not_have_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = "0, 00000000:07:00.0, [N/A], [N/A], Not Active, Not Active, [Not Supported], [N/A], [N/A]"
    driver(tmp_path, monkeypatch, fields=NOW, gpus=[bare], rows="echo '00000000:07:00.0, [N/A], [N/A]'")
    assert look_at_gpus() == GpuHealth((Gpu("0", FIRST, ()),))


def test_a_gpu_has_the_machines_number_also_where_a_job_may_see_the_second_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in (FIRST, SECOND):
        (tmp_path / "gpus" / address).mkdir(parents=True)
    monkeypatch.setattr(own_gpu, "LISTED", tmp_path / "gpus")
    gpus = [f"0, 00000000:0B:00.0, 0, [N/A], {LISTED}"]
    driver(tmp_path, monkeypatch, fields=NOW, gpus=gpus, rows="echo '00000000:0B:00.0, No, No'")
    assert look_at_gpus() == GpuHealth((Gpu("1", SECOND, ()),))


def test_one_that_fails_or_never_answers_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Unable to determine the device handle for GPU 0000:3B:00.0: Unknown Error"
    install_nvidia_smi(tmp_path, f"echo '{text}'; exit 15", monkeypatch)
    assert look_at_gpus() == GpuHealth(fault=f"nvidia-smi fails on {HOST} (exit code 15: {text})")
    monkeypatch.setattr(asking, "TIMEOUT_S", 0.2)
    for script in ("exec sleep 60", "[[ $1 == --query-gpu=* ]] || exec sleep 60"):
        install_nvidia_smi(tmp_path, script, monkeypatch)
        health = look_at_gpus()
        assert health is not None and health.gpus == ()
        assert str(health.fault).startswith(f"nvidia-smi does not answer within 0.2 s on {HOST}: the driver or a GPU ")
