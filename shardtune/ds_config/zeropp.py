"""ZeRO++ in a ds_config: secondary partitions and quantized exchanges (Wang et al., 2023), and where they are right."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shardtune.ds_config.fill import PARTITION
from shardtune.ds_config.nested import get_value

WEIGHTS, GRADIENTS = "zero_quantized_weights", "zero_quantized_gradients"


def quantizes(ds_config: Mapping[str, Any]) -> list[str]:
    """The keys of zero_optimization with which a ds_config quantizes what is exchanged."""
    return [key for key in (WEIGHTS, GRADIENTS) if get_value(ds_config, f"zero_optimization.{key}") is True]


def zeropp_faults(config: Mapping[str, Any], precisions: Sequence[str]) -> Iterator[str]:
    """A fault for each part of ZeRO++ that DeepSpeed would ignore, or compute wrongly in one of these precisions."""
    zero = config["zero_optimization"]
    size = zero.get(PARTITION)
    asked = [*quantizes(config), *([PARTITION] if isinstance(size, int) and size > 1 else [])]
    if zero.get("stage") in (0, 1, 2):
        yield from (f"zero_optimization.{key}: needs stage 3, got stage {zero['stage']}" for key in asked)
    if GRADIENTS not in asked:
        return
    # DeepSpeed (0.19.8) hands gradients to swizzle_quant (csrc/quantization/pt_binding.cpp) as they are exchanged, and
    # that takes the bits of any tensor for fp16 numbers.
    exchanged = {str(get_value(config, "communication_data_type")).lower()} - {"none", "auto"} or set(precisions)
    if exchanged != {"fp16"}:
        yield (
            f"zero_optimization.{GRADIENTS}: DeepSpeed can quantize gradients in fp16 only, and garbles others; set "
            "engine.precision=fp16 and engine.communication_data_type=auto, or turn it off here"
        )
