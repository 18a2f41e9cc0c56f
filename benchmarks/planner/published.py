"""The published figures, and which of the throughput rows were never looked at while constants were fitted.

throughput.csv: the training benchmarks of MosaicML's llm-foundry (scripts/train/benchmarking/README.md: MPT models,
FSDP, bf16). mfu_percent = (6 * parameters * S + 12 * layers * hidden * S^2) * rows/s / (GPUs * peak).
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

SEED = 20261130
"""Written down before the first fit: the third of the rows whose SHA-256 behind `SEED:` is lowest is held out."""
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ThroughputRow:
    """A published measurement of training throughput."""

    is_held_out: bool
    model: str
    num_parameters: int
    num_tokens: int
    """Length of a sequence."""
    num_gpus: int
    gpu: str
    micro_batch: int
    """Rows of a micro-batch on a GPU."""
    num_micro_batches: int
    is_pure_bf16: bool
    """Whether gradients are exchanged in bf16, and not in fp32."""
    keeps_weights: bool
    """Whether the gathered weights are kept between the forward and the backward pass."""
    activation_checkpointing: bool
    tokens_per_s_per_gpu: float


def throughput_rows() -> list[ThroughputRow]:
    """All rows of throughput.csv."""
    with (FOLDER / "throughput.csv").open(encoding="utf-8", newline="") as lines:
        return [_throughput_row(row) for row in csv.DictReader(lines)]


def _throughput_row(row: dict[str, str]) -> ThroughputRow:
    return ThroughputRow(
        is_held_out=row["part"] == "held_out",
        model=row["model"],
        num_parameters=int(row["num_params"]),
        num_tokens=int(row["seq_len"]),
        num_gpus=int(row["num_gpus"]),
        gpu=row["gpu"],
        micro_batch=int(row["micro_batch"]),
        num_micro_batches=int(row["grad_accum"]),
        is_pure_bf16=row["mixed_precision_mode"] == "PURE",
        keeps_weights=row["sharding"] == "SHARD_GRAD_OP",
        activation_checkpointing=row["activation_checkpointing"] == "True",
        tokens_per_s_per_gpu=float(row["tokens_per_s_per_gpu"]),
    )


def held_out(lines: list[str]) -> set[str]:
    """The third of these lines of the published table that is held out."""
    ranked = sorted(lines, key=lambda line: hashlib.sha256(f"{SEED}:{line}".encode()).hexdigest())
    return set(ranked[: round(len(lines) / 3)])
