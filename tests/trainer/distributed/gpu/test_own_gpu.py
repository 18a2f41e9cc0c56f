"""A rank sees its own MIG instance alone, keeps to the GPUs that it was given, and knows the machine's number of its
own."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from shardtune.errors import LaunchError
from shardtune.machine.visible_gpus import VISIBLE_GPUS
from shardtune.trainer.distributed import ranks as connecting
from shardtune.trainer.distributed.gpu import own_gpu as choosing
from shardtune.trainer.distributed.gpu.own_gpu import choose_own_gpu, gpu_number, number_on_machine, pci_address
from tests.support.fake_nvidia_smi import install_nvidia_smi

A, B = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"
CUDA = torch.device("cuda", 1)


def test_whole_gpus_stay_visible_and_a_rank_takes_the_one_of_its_number() -> None:
    for variable in ({}, {"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2"}):
        environment = {"LOCAL_RANK": "1", **variable}
        assert choose_own_gpu(1, environment) == 1
        assert environment == {"LOCAL_RANK": "1", **variable}


def test_of_several_mig_instances_a_rank_sees_its_own_as_the_first_gpu() -> None:
    environment = {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": f"{A},{B}"}
    assert choose_own_gpu(1, environment) == 0
    assert environment == {"LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": B}
    mixed = {VISIBLE_GPUS: f"GPU-e91edf3b,{A}"}
    assert choose_own_gpu(0, mixed) == 0
    assert mixed == {"LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "GPU-e91edf3b"}  # a whole GPU beside a divided one
    assert choose_own_gpu(0, environment) == 0 and environment["CUDA_VISIBLE_DEVICES"] == B  # once more is no other


def test_more_ranks_than_instances_are_refused() -> None:
    with pytest.raises(LaunchError, match=r"local rank 2 has no GPU: this machine has 2 MIG instances or GPUs"):
        choose_own_gpu(2, {"CUDA_VISIBLE_DEVICES": f"{A},{B}"})


@pytest.mark.parametrize("given", ["6,2", "GPU-5d5ba0d6,GPU-e91edf3b", f"{A},{B}"])
def test_ranks_of_the_deepspeed_launcher_keep_to_the_gpus_that_the_user_left(given: str) -> None:
    from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator

    environment = {VISIBLE_GPUS: given, "LOCAL_RANK": "1"}
    CUDA_Accelerator().set_visible_devices_envs(environment, [0, 1])  # as deepspeed.launcher.launch does
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    index = choose_own_gpu(1, environment)
    assert (index, environment["CUDA_VISIBLE_DEVICES"]) == ((0, B) if given.startswith("MIG") else (1, given))
    assert VISIBLE_GPUS not in environment


def test_ranks_by_hand_find_the_instances_that_nobody_has_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "CAPABILITIES", tmp_path)
    install_nvidia_smi(
        tmp_path,
        f"""echo "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6)"
echo "  MIG 3g.20gb     Device  0: (UUID: {A})"; echo "  MIG 3g.20gb     Device  1: (UUID: {B})" """,
        monkeypatch,
    )
    assert choose_own_gpu(1, {}) == 1  # no GPU is divided, so nvidia-smi is not asked
    (tmp_path / "gpu0" / "mig" / "gi1" / "ci0").mkdir(parents=True)
    for variable in ({}, {"CUDA_VISIBLE_DEVICES": "0"}):
        environment: dict[str, str] = dict(variable)
        assert choose_own_gpu(1, environment) == 0
        assert environment == {"CUDA_VISIBLE_DEVICES": B, "LOCAL_RANK": "0"}


def test_a_rank_connects_with_the_device_that_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{A},{B}")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert connecting._device("cpu", 1) == torch.device("cpu")
    assert connecting._device("cuda", 1) == torch.device("cuda", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(LaunchError, match="local rank 1 has no GPU: this machine has 1;"):
        connecting._device("cuda", 1)


@pytest.fixture
def eight_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight GPUs, of which this process sees two; it is the second of these, at 0000:9b:00.0."""
    for bus in ("07", "0b", "48", "4c", "88", "8b", "c8", "9b"):
        (tmp_path / f"0000:{bus}:00.0").mkdir()
    monkeypatch.setattr(choosing, "LISTED", tmp_path)
    about = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x9B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about if device == CUDA else None)


@pytest.mark.usefixtures("eight_gpus")
def test_a_gpu_has_the_machines_number_and_not_its_index_among_the_visible_ones() -> None:
    assert pci_address(CUDA) == "0000:9b:00.0"
    assert gpu_number(CUDA) == number_on_machine("0000:9b:00.0") == 6
    assert gpu_number(torch.device("cpu")) is pci_address(torch.device("cpu")) is None


@pytest.mark.usefixtures("eight_gpus")
def test_where_the_machine_does_not_tell_the_index_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(choosing, "LISTED", tmp_path / "nothing")
    assert gpu_number(CUDA) == 1
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace())
    assert (pci_address(CUDA), gpu_number(CUDA)) == (None, 1)
