"""What DeepSpeed does besides computing steps is kept in check."""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.accelerator import cuda_accelerator

from shardtune.errors import ConfigError, LaunchError
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.exit_codes import EXIT_USER
from shardtune.trainer.__main__ import main
from shardtune.trainer.engine.deepspeed_engine import open_deepspeed, refuse_bad_ds_config
from tests.support.runs import RECIPE, tiny_recipe, train


def own_recipe(folder: Path, ds_config: dict[str, Any], *overrides: str) -> Recipe:
    (folder / "my.json").write_text(json.dumps(ds_config))
    return tiny_recipe(folder, f"engine.deepspeed={folder / 'my.json'}", *overrides)


@pytest.mark.parametrize(
    ("ds_config", "faults"),
    [
        (
            {"zero_optimization": {"stage": 2, "reduce_bucket_size": "big", "overlap_comm": 7}},
            ["zero_optimization.reduce_bucket_size: ", "zero_optimization.overlap_comm: "],
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "disk"}}},
            ["zero_optimization.offload_param.device: "],
        ),
        ({"compile": {"passes": ["z9"]}}, ["compile.passes.0: "]),
        (
            {"checkpoint": {"parallel_write": {"pipeline_stage": 3}}},
            ["DeepSpeed refuses it: checkpoint::parallel_write"],
        ),
        (
            {"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}},
            ["zero_optimization: partial offloading"],
        ),
        ({"compile": {"disable": False, "backend": "inductor"}, "timers": {"throughput": {"enabled": False}}}, []),
    ],
)
def test_what_deepspeed_refuses_is_told_in_a_line_each_before_a_rank_starts(
    tmp_path: Path, ds_config: dict[str, Any], faults: list[str]
) -> None:
    recipe = own_recipe(tmp_path, ds_config)
    if not faults:
        refuse_bad_ds_config(recipe)
        return
    with pytest.raises(ConfigError) as error:
        refuse_bad_ds_config(recipe)
    lines = str(error.value).splitlines()
    assert [line.startswith(f"{tmp_path}/my.json: {fault}") for line, fault in zip(lines, faults, strict=True)] == [
        True
    ] * len(faults), lines


def test_the_preparation_ends_with_what_deepspeed_refuses(tiny: Path, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "my.json").write_text('{"zero_optimization": {"stage": 2, "reduce_bucket_size": "big"}}')
    (tmp_path / "x.yaml").write_text(RECIPE.format(folder=tiny))
    words = [f"engine.deepspeed={tmp_path}/my.json", f"--run-dir={tmp_path}/run", "--prepare=2"]
    assert main([f"{tmp_path}/x.yaml", *words]) == EXIT_USER
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}/my.json: zero_optimization.reduce_bucket_size: input should be a valid integer")


@pytest.mark.parametrize("stage", [2, 3])
def test_nothing_is_compiled_for_a_training(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    """It would take minutes, and a rank that is killed meanwhile leaves a lock that all later ones wait for."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    recipe = tiny_recipe(tiny, f"engine.deepspeed=zero{stage}", "train.max_steps=1")
    assert train(recipe, tmp_path, world_size=2)[0] == [True, True]
    assert not (tmp_path / "extensions").exists()


@pytest.mark.parametrize(
    ("package", "found", "is_refused"),
    [
        ("deepspeed", "0.18.9", True),
        ("deepspeed", "0.19.4", True),
        ("deepspeed", "0.19.5+unknown", False),
        ("deepspeed", "1.0", False),
        ("torch", "2.9.1+cu128", True),
        ("torch", "2.10.0", False),
    ],
)
def test_versions_that_lose_gradients_are_refused_before_a_rank_starts(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, package: str, found: str, is_refused: bool
) -> None:
    installed = {"deepspeed": "0.19.8", "torch": "2.13.0", package: found}
    monkeypatch.setattr("shardtune.trainer.engine.zero_gradients.version", installed.__getitem__)
    refuse_bad_ds_config(tiny_recipe(tiny, "engine.deepspeed=null"))
    refusal = pytest.raises(LaunchError, match=f"{package} {re.escape(found)} is installed.*or later is needed")
    with refusal if is_refused else nullcontext():
        refuse_bad_ds_config(tiny_recipe(tiny, "engine.deepspeed=zero2_offload"))


@pytest.mark.parametrize("visible", ["GPU-5d5ba0d6,GPU-e91edf3b", "MIG-c6d4f1ef", "1,0", None])
def test_deepspeed_asks_nvml_by_numbers_only(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    """Its ZeRO-1 and 2 ask for the free memory (0.19.8), by the number that CUDA_VISIBLE_DEVICES gives the GPU."""
    nvml = SimpleNamespace(
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetMemoryInfo=lambda number: SimpleNamespace(free=100 + number),
    )
    monkeypatch.setattr(cuda_accelerator, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=7))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2)
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **_: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu = cuda_accelerator.CUDA_Accelerator()
    if visible is not None and "-" in visible:
        with pytest.raises(ValueError, match="invalid literal for int"):  # what it is kept from
            gpu.available_memory(0)
    open_deepspeed()
    assert gpu.available_memory(0) == {"1,0": 101, None: 100}.get(visible, 5)
