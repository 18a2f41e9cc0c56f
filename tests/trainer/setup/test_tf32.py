"""engine.tf32 sets how fp32 matrices are multiplied on GPUs that can, and says where it has no effect."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shardtune.trainer.setup.precision import settle_tf32
from tests.support.runs import tiny_recipe

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def is_ampere(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: answer)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")


def test_fp32_stays_exact_unless_tf32_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_ampere(monkeypatch, True)
    assert settle_tf32(tiny_recipe(tmp_path), GPU) is None
    assert torch.get_float32_matmul_precision() == "highest"
    assert settle_tf32(tiny_recipe(tmp_path, "engine.tf32=true"), GPU) is None
    assert torch.get_float32_matmul_precision() == "high"


def test_where_it_has_no_effect_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(tmp_path, "engine.tf32=true")
    is_ampere(monkeypatch, False)
    assert settle_tf32(recipe, torch.device("cpu")) == "engine.tf32 has no effect on CPUs"
    assert settle_tf32(recipe, GPU) == "engine.tf32 has no effect: Tesla V100 cannot compute in TF32"
    half = tiny_recipe(tmp_path, "engine.tf32=true", "engine.precision=bf16")
    assert (settle_tf32(half, GPU) or "").startswith("engine.tf32 has no effect in bf16: only fp32 matrices")
    assert torch.get_float32_matmul_precision() == "highest"
