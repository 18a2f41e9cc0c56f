"""All ranks compute in one precision, which every device has units for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shardtune.errors import LaunchError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.setup.precision import expected_precision, has_bf16, settle_precision, settle_tf32
from tests.support.ranks import run_ranks


def recipe(*overrides: str) -> Recipe:
    return parse_recipe("task: {kind: classification}\nmodel: {path: m}\ndata: {train: t.jsonl}\n", overrides)


def with_units(**names: bool) -> Any:
    """A stand-in for torch.cpu.get_capabilities."""
    return lambda: names


@pytest.mark.parametrize(
    ("names", "expected"),
    [({"avx2": True, "avx512_f": True}, False), ({"avx512_bf16": True}, True), ({"bf16": True}, True), ({}, False)],
)
def test_a_cpu_is_asked_for_its_units(names: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", with_units(**names))
    assert has_bf16("cpu") is expected
    assert expected_precision(recipe("job.device=cpu")) == ("bf16" if expected else "fp32")


@pytest.mark.parametrize(("with_it", "expected"), [((0, 1), "bf16"), ((0,), "fp32"), ((), "fp32")])
def test_one_rank_without_units_decides_for_all(with_it: tuple[int, ...], expected: str) -> None:
    def body(ranks: Ranks) -> str:
        torch.cpu.get_capabilities = with_units(amx_bf16=ranks.rank in with_it)
        return settle_precision(recipe(), ranks).engine.precision

    assert run_ranks(body, world_size=2) == [expected] * 2


def test_what_is_asked_for_is_taken_and_what_cannot_be_is_refused() -> None:
    def body(ranks: Ranks) -> str:
        torch.cpu.get_capabilities = with_units()
        with pytest.raises(LaunchError, match="fp16 needs a GPU"):
            settle_precision(recipe("engine.precision=fp16"), ranks)
        return settle_precision(recipe("engine.precision=bf16"), ranks).engine.precision

    assert run_ranks(body, world_size=1) == ["bf16"]


@pytest.mark.parametrize(
    ("ds_config", "units", "expected"),
    [
        ({"bf16": {"enabled": True}}, False, "bf16"),
        ({"bf16": {"enabled": "auto"}, "fp16": {"enabled": False}}, False, "fp32"),
        ({"bf16": {"enabled": "auto"}, "fp16": {"enabled": False}}, True, "bf16"),
        ({"fp16": {"enabled": False}}, True, "fp32"),
    ],
)
def test_a_precision_that_the_ds_config_names_is_settled_on(
    tmp_path: Path, ds_config: dict[str, Any], units: bool, expected: str
) -> None:
    (tmp_path / "my.json").write_text(json.dumps(ds_config))

    def body(ranks: Ranks) -> tuple[str, str]:
        torch.cpu.get_capabilities = with_units(amx_bf16=units)
        ours = recipe(f"engine.deepspeed={tmp_path}/my.json", "job.device=cpu")
        return settle_precision(ours, ranks).engine.precision, expected_precision(ours)

    assert run_ranks(body, world_size=1) == [(expected, expected)]


GPU = torch.device("cuda", 0)


@pytest.fixture
def _fp32_is_exact_again() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def is_ampere(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: answer)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")


@pytest.mark.usefixtures("_fp32_is_exact_again")
def test_fp32_stays_exact_unless_tf32_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    is_ampere(monkeypatch, True)
    assert settle_tf32(recipe("engine.precision=fp32"), GPU) is None
    assert torch.get_float32_matmul_precision() == "highest"
    assert settle_tf32(recipe("engine.tf32=true", "engine.precision=fp32"), GPU) is None
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.usefixtures("_fp32_is_exact_again")
def test_where_tf32_has_no_effect_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe("engine.tf32=true", "engine.precision=fp32")
    is_ampere(monkeypatch, False)
    assert settle_tf32(asked, torch.device("cpu")) == "engine.tf32 has no effect on CPUs"
    assert settle_tf32(asked, GPU) == "engine.tf32 has no effect: Tesla V100 cannot compute in TF32"
    half = recipe("engine.tf32=true", "engine.precision=bf16")
    assert (settle_tf32(half, GPU) or "").startswith("engine.tf32 has no effect in bf16: only fp32 matrices")
    assert torch.get_float32_matmul_precision() == "highest"
