"""What a process of the check can be asked to do; each job returns what JSON can hold."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.gpu import models, trainer_side
from benchmarks.gpu.formulas import predicted_bytes
from benchmarks.gpu.rows import ROWS, write_rows
from benchmarks.gpu.training import Place
from benchmarks.gpu.training import train as train_here
from shardtune.planner.hardware import peak_tflops
from shardtune.trainer.checkpoint.manifest import installed_versions

OPTIONAL = ("accelerate", "flash_attn", "liger_kernel", "bitsandbytes")
"""Packages by which what can be measured depends."""


def facts(place: Place) -> dict[str, Any]:
    """The device, its memory and peak rate, and what is installed."""
    name, capacity, peak = platform.processor() or platform.machine(), 0, None
    if place.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, capacity, peak = properties.name, properties.total_memory, peak_tflops(properties.name, "bf16")
    return {
        "device": place.device,
        "name": name,
        "num_gpus": torch.cuda.device_count(),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": capacity,
        "peak_tflops_bf16": peak,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "versions": installed_versions(),
        "optional": [package for package in OPTIONAL if find_spec(package) is not None],
    }


def write_tasks(place: Place, folder: str, num_rows: int) -> dict[str, Any]:
    """Writes the small model and the rows of every task into a folder of its name."""
    for task in ROWS:
        models.write_model(Path(folder, task, "model"), task)
        write_rows(Path(folder, task, "train.jsonl"), task, num_rows)
    return {}


def write_task_rows(place: Place, path: str, task: str, num_rows: int) -> dict[str, Any]:
    """Writes so many rows of a task."""
    write_rows(Path(path), task, num_rows)
    return {}


def write_shape(place: Place, folder: str, config: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """Writes a Llama of this config with random weights; returns their bytes."""
    assert place.ranks.world_size == 1  # connected before a GPU's memory is used, which that configures
    return {"num_bytes": models.write_llama(Path(folder), dict(config), longest=longest, device=place.device)}


def train(place: Place, recipe: Mapping[str, Any], run_dir: str, **limits: Any) -> dict[str, Any]:
    """Trains a recipe (benchmarks/gpu/training.py)."""
    return train_here(place, recipe, Path(run_dir), **limits)


def train_by_trainer(place: Place, **settings: Any) -> dict[str, Any]:
    """Trains with transformers.Trainer."""
    return trainer_side.train(place, trainer_side.Training(**settings))


def predict_memory(place: Place, recipe: Mapping[str, Any], rows: int, tokens: int) -> dict[str, Any]:
    """The bytes that this recipe needs by the formulas, with a micro-batch of so many rows and tokens in each."""
    return dict(predicted_bytes(recipe, (rows, tokens)))


def compare_checkpoints(place: Place, folders: Sequence[str], steps: Sequence[int]) -> dict[str, Any]:
    """How far two runs' checkpoints of the last of these steps are apart, relative to how far they are from that of the
    step before it: 0 if all bits are the same."""
    one, other = (_tensors(Path(folder), steps[-1]) for folder in folders)
    before = _tensors(Path(folders[0]), steps[-2])
    assert one.keys() == other.keys() == before.keys(), "the checkpoints hold different tensors"
    apart = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one)
    moved = sum(float((one[name].double() - before[name].double()).square().sum()) for name in one)
    return {"relative": (apart / moved) ** 0.5, "num_tensors": len(one), "moved": moved**0.5}


def _tensors(run_dir: Path, step: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by the kind of file and their name."""
    tensors: dict[str, Tensor] = {}
    for path in sorted((run_dir / "checkpoints" / f"step-{step}").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {f"{path.name}: {name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors
