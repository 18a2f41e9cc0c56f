"""The planner's throughput beside the published one."""

from dataclasses import dataclass

from benchmarks.planner.published import ThroughputRow, throughput_rows
from shardtune.planner.constants import DEFAULTS, Constants
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Batch, Cluster, Job, Software, States
from shardtune.planner.model_shape import Layers, ModelShape
from shardtune.planner.schedule import step_time

MPT = {
    "125m": (12, 768, 12),
    "350m": (24, 1024, 16),
    "760m": (24, 1536, 12),
    "1b": (24, 2048, 16),
    "3b": (32, 2560, 20),
    "7b": (32, 4096, 32),
    "13b": (40, 5120, 40),
    "30b": (48, 7168, 56),
    "70b": (80, 8192, 64),
}
"""Layers, hidden size, heads of llm-foundry's models (scripts/train/yamls/mpt/*.yaml: attn_impl: triton)."""
GPUS = {"a100_40gb": "a100-sxm-40g", "a100_80gb": "a100-sxm-80g", "h100_80gb": "h100-sxm-80g"}


@dataclass(frozen=True)
class Comparison:
    """A published row and what the planner says."""

    row: ThroughputRow
    predicted: float

    @property
    def error(self) -> float:
        """Relative, signed: above 0 if the prediction is too fast."""
        return self.predicted / self.row.tokens_per_s_per_gpu - 1


def mpt_shape(name: str, num_tokens: int) -> ModelShape:
    """The model of a row: learned positions, biases, tied embeddings."""
    num_layers, hidden, heads = MPT[name]
    layers = Layers(
        num=num_layers,
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=heads,
        head_size=hidden // heads,
        mlp_width=4 * hidden,
        is_gated=False,
        is_causal=True,
        is_rms_norm=False,
        small=13 * hidden,
    )
    vocabulary = 50368
    return ModelShape(
        name=f"mpt-{name}",
        stacks=(layers,),
        hidden=hidden,
        vocabulary=vocabulary,
        embeddings=(vocabulary + num_tokens) * hidden,
        others=2 * hidden,
        is_tied=True,
    )


def job_of(row: ThroughputRow) -> Job:
    """A published row as the planner takes it: Composer's FSDP, attn_impl: triton, loss_fn: fused_crossentropy."""
    states = States(
        weight=2,
        gradient=4,
        master=4,
        moments=8,
        exchanged=2 if row.is_pure_bf16 else 4,
        shards_weights=True,
        shards_gradients=True,
        shards_optimizer=True,
        keeps_gathered=row.keeps_weights,
    )
    return Job(
        shape=mpt_shape(row.model, row.num_tokens),
        states=states,
        # Dropout of probability 0 is computed all the same.
        software=Software(
            attention="triton", loss="fused", dropout=True, activation_checkpointing=row.activation_checkpointing
        ),
        batch=Batch(rows=row.micro_batch, tokens=row.num_tokens, num_micro_batches=row.num_micro_batches),
        cluster=Cluster(
            gpu=find_gpu(GPUS[row.gpu]), gpus_per_node=min(8, row.num_gpus), num_nodes=max(1, row.num_gpus // 8)
        ),
    )


def compare(constants: Constants = DEFAULTS, *, held_out: bool) -> list[Comparison]:
    """The comparison of each row of one of the parts."""
    return [
        Comparison(row, step_time(job_of(row), constants).tokens_per_s)
        for row in throughput_rows()
        if row.is_held_out == held_out
    ]
