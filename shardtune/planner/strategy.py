"""What a resolved ds_config makes each rank hold and send, as DeepSpeed 0.19.8 does it.

Read in deepspeed/runtime/zero/stage_1_and_2.py, stage3.py, bf16_optimizer.py and fp16/unfused_optimizer.py; held to the
bytes and the collectives of the real ones by tests/trainer/engine/test_planned_states.py.
"""

import math
from collections.abc import Mapping
from typing import Any

from shardtune.ds_config.fill import PARTITION
from shardtune.ds_config.resolve import adds_up_in_fp32, zero_stage
from shardtune.planner.job import States

DEEPSPEED_BUCKET = 5e8
"""Elements of a bucket where a ds_config does not say (zero_optimization.reduce_bucket_size)."""
DEEPSPEED_PREFETCH = 5e7
"""Elements that are gathered ahead where a ds_config does not say (zero_optimization.stage3_prefetch_bucket_size)."""
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
REPLICATED_BUCKET = 25 * 2**20
"""Bytes of a bucket without DeepSpeed (trainer/engine/exchange/buckets.py)."""


def states_of(
    ds_config: Mapping[str, Any] | None, precision: str, communication: str = "auto", *, shares_memory: bool = False
) -> States:
    """The states of a trained parameter under this resolved ds_config, or without DeepSpeed, where `communication` is
    the recipe's engine.communication_data_type (a ds_config has it already). There CPU ranks of one machine share
    memory: they have the weights in common, and each has a part of the optimizer's states."""
    width = BYTES[precision]
    if ds_config is None:
        # Weights, gradients and masters lie in flat tensors for as long as the run (trainer/engine/replicated_engine).
        return States(
            weight=width,
            gradient=4,
            master=4 if width == 2 else 0,
            exchanged=BYTES.get(communication, 4),
            frees_gradients=False,
            shards_optimizer=shares_memory,
            shares_weights=shares_memory,
            bucket=0 if shares_memory else REPLICATED_BUCKET / BYTES.get(communication, 4),
            num_buckets=math.inf if BYTES.get(communication, 4) < 4 and not shares_memory else 0,
        )
    stage, zero = zero_stage(ds_config), ds_config.get("zero_optimization", {})
    exchanged = BYTES.get(str(ds_config.get("communication_data_type")).lower(), width)
    added = 4 if width == 4 or adds_up_in_fp32(ds_config) else 2
    if stage == 0:
        return States(
            weight=width,
            gradient=added,
            master=4 if width == 2 else 0,
            exchanged=exchanged,
            bucket=DEEPSPEED_BUCKET,
        )
    offloads_optimizer = _is_on_cpu(zero, "offload_optimizer")
    common: dict[str, Any] = {"weight": width, "gradient": added, "exchanged": exchanged, "copied": 4}
    common |= {"shards_optimizer": True, "offloads_optimizer": offloads_optimizer}
    bucket = float(zero.get("reduce_bucket_size", DEEPSPEED_BUCKET))
    if stage == 3:
        return States(
            **common,
            master=4,
            frees_gradients=False,
            shards_weights=True,
            shards_gradients=True,
            offloads_weights=_is_on_cpu(zero, "offload_param"),
            bucket=bucket,
            reuse=float(zero.get("stage3_max_reuse_distance", 1e9)),
            fetched=float(zero.get("stage3_prefetch_bucket_size", DEEPSPEED_PREFETCH)),
            secondary=int(zero.get(PARTITION) or 1),
        )
    if stage == 1:
        # bf16_optimizer.py where gradients are added up in fp32: they are whole, in flat tensors, from start to end.
        is_flat = precision == "bf16" and added == 4 and not offloads_optimizer
        return States(
            **{**common, "copied": 0 if is_flat else 4},
            master=4,
            all_reduces=True,
            frees_gradients=not is_flat,
            keeps_own_part=not is_flat,
            views_gradients=width == added,
            bucket=0 if is_flat else bucket,
        )
    return States(
        **common,
        master=4,
        all_reduces=True,
        shards_gradients=True,
        views_gradients=width == added,
        bucket=bucket,
        num_buckets=2 if zero.get("overlap_comm") else 1,
    )


def _is_on_cpu(zero: Mapping[str, Any], block: str) -> bool:
    return bool((zero.get(block) or {}).get("device") == "cpu")
