"""The Llama shapes of the memory and speed parts, their weights and rows, and the recipes that train them."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.rows import cut_sequences, write_sequences
from benchmarks.gpu.workers import Worker


@dataclass(frozen=True, eq=False)  # each is one of a few, and none is equal to another
class Shape:
    """A model, and what it is trained on. A document of n words is n inputs, each of which has a target."""

    name: str
    config: dict[str, Any]
    max_tokens: int
    """Tokens of a packed row."""
    num_sequences: int
    """Packed rows in a step, which trains on all rows."""
    at_once: int
    """Packed rows in a micro-batch."""
    num_parameters: float

    @property
    def num_bytes(self) -> float:
        """The size of the weights on disk."""
        return 2 * self.num_parameters


def _config(
    hidden: int, layers: int, heads: int, inner: int, vocabulary: int, *, kv: int, tied: bool
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    }


TINY = Shape("tiny", _config(64, 2, 2, 128, 128, kv=1, tied=True), 256, 4, 2, 8.2e4)
MEDIUM = Shape("270M", _config(1024, 16, 16, 2816, 32000, kv=16, tied=False), 1024, 16, 8, 2.7e8)
LLAMA_1B = Shape("1B", _config(2048, 16, 32, 8192, 128256, kv=8, tied=True), 4096, 8, 4, 1.24e9)
"""As meta-llama/Llama-3.2-1B."""
LLAMA_8B = Shape("8B", _config(4096, 32, 32, 14336, 128256, kv=8, tied=False), 4096, 8, 2, 8.03e9)
"""As meta-llama/Llama-3.1-8B."""


def needs_disk(bench: Bench, shape: Shape) -> str | None:
    """What to say if the disk has no room for the weights, and they are not there yet."""
    free = shutil.disk_usage(bench.folder).free
    if (folder_of(bench, shape) / "train.jsonl").exists() or free > 1.2 * shape.num_bytes + 2e9:
        return None
    return f"{bench.folder} has {free / 1e9:.0f} GB free, and the weights take {shape.num_bytes / 1e9:.0f} GB"


def folder_of(bench: Bench, shape: Shape) -> Path:
    return bench.folder / "shapes" / shape.name


def write_shape(bench: Bench, worker: Worker, shape: Shape) -> None:
    """Writes weights and rows of a shape, unless they are there."""
    folder = folder_of(bench, shape)
    if (folder / "train.jsonl").exists():
        return
    bench.do(worker, "write_shape", folder=str(folder / "model"), config=shape.config, longest=shape.max_tokens)
    write_sequences(folder / "train.jsonl", sequences_of(shape))


def sequences_of(shape: Shape) -> list[list[int]]:
    """The lengths of the documents in each packed row."""
    return cut_sequences(shape.num_sequences, shape.max_tokens)


def shape_recipe(
    bench: Bench,
    shape: Shape,
    *,
    num_steps: int,
    strategy: str | None = None,
    lora_r: int | None = None,
    model: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
    at_once: int | None = None,
    report: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A recipe of which each step trains on all rows of a shape; `model`, `engine` and `report` are further keys."""
    folder = folder_of(bench, shape)
    return bench.recipe(
        task={"kind": "language_modeling", "objective": "causal"},
        model={
            "path": str(folder / "model"),
            "lora": None if lora_r is None else {"r": lora_r, "alpha": 32.0},
            **(model or {}),
        },
        data={"train": str(folder / "train.jsonl"), "max_tokens": shape.max_tokens, "length_window": 0},
        train={
            "global_batch_size": sum(map(len, sequences_of(shape))),
            "max_steps": num_steps + 1,
            "micro_batch_tokens": (at_once or shape.at_once) * shape.max_tokens,
        },
        optim={"lr": 1e-4 if lora_r is not None else 1e-5, "schedule": "constant"},
        engine={"deepspeed": strategy, "precision": "bf16", **(engine or {})},
        checkpoint={"every_steps": 10**6},
        report={"wandb": "disabled", **(report or {})},
        job={"device": bench.device},
    )
