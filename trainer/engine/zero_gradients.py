"""Gradients are those of one step, and added up in fp32, where DeepSpeed by itself would do otherwise."""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from shardtune.ds_config.resolve import adds_up_in_fp32, zero_stage
from shardtune.errors import LaunchError

LEAST_VERSIONS = {"deepspeed": (0, 19, 5), "torch": (2, 10)}
"""Older ones lose gradients without a word. DeepSpeed: ZeRO-1 and 2 with an offloaded optimizer kept those of the last
micro-batch only, and ZeRO-1 in bf16 left the last one out (until 0.18.9; pull requests 7981 and 7985); an offloaded
optimizer got no gradient of what the last micro-batch does not pass through (until 0.19.4). torch: see Accumulation."""


def refuse_old_versions() -> None:
    """Raises LaunchError if an installed package is older than LEAST_VERSIONS."""
    for package, least in LEAST_VERSIONS.items():
        found = version(package)
        numbers = tuple(int(number) for number in re.findall(r"\d+", found.split("+")[0])[: len(least)])
        if numbers < least:
            needed = ".".join(map(str, least))
            raise LaunchError(
                f"engine.deepspeed: {package} {found} is installed, which loses gradients; {needed} or later is needed "
                f"(pip install --upgrade '{package}>={needed}'), or engine.deepspeed=null"
            )


class Accumulation:
    """The sum of a step's micro-batches under ZeRO-0 in half precision, in fp32 if the ds_config says so.

    DeepSpeed (0.19.8) refuses data_types.grad_accum_dtype: fp32 at stage 0, and adds up in the precision of the
    weights: at 256 micro-batches in bf16 the gradient is off by 2 %. torch itself can add up in fp32. In the other
    stages nothing is done here.
    """

    def __init__(self, trained: Iterable[nn.Parameter], ds_config: Mapping[str, Any]) -> None:
        self.ds_config = dict(ds_config)
        """For DeepSpeed."""
        self._trained: list[nn.Parameter] = []
        if zero_stage(ds_config) > 0:
            return
        self.ds_config["data_types"] = {
            key: value for key, value in ds_config["data_types"].items() if key != "grad_accum_dtype"
        }
        if adds_up_in_fp32(ds_config):
            self._trained = [*trained]

    def begin(self) -> None:
        """Begins, once the weights have their final precision."""
        self._trained = [parameter for parameter in self._trained if parameter.dtype != torch.float32]
        for parameter in self._trained:
            parameter.grad_dtype = torch.float32

    def before_last(self) -> None:
        """Gives zeros to what no micro-batch but the last can pass through: DeepSpeed would, in another precision."""
        for parameter in self._trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter, dtype=torch.float32)


def forget_gradients(engine: Any) -> None:
    """Zeroes what DeepSpeed keeps of the gradients of the step before.

    Stage 3, and any stage with an offloaded optimizer, overwrite (DeepSpeed 0.19.8) the gradient of a parameter only
    when a micro-batch passes through it. Without this, a layer that a step skips would be trained with an old gradient.
    """
    wrapper = engine.optimizer
    kept = [getattr(wrapper, "grad_partitions_flat_buffer", None)]
    kept += getattr(wrapper, "accumulated_grads_in_cpu", {}).values()
    if _is_offloaded(wrapper):
        kept += [owner.grad for owner in _owners(wrapper)]
        wrapper.norm_for_param_grads.clear()
    for gradient in kept:
        if gradient is not None:
            gradient.zero_()


def _is_offloaded(wrapper: Any) -> bool:
    return bool(getattr(wrapper, "cpu_offload", False) or getattr(wrapper, "offload_optimizer", False))


def _owners(wrapper: Any) -> list[Tensor]:
    """The tensors that the optimizer of stage 1, 2 or 3 updates."""
    owners: list[Tensor] = getattr(wrapper, "fp32_partitioned_groups_flat", None) or getattr(
        wrapper, "single_partition_of_fp32_groups", []
    )
    return owners


def hand_over_gradients(engine: Any) -> None:
    """Hands an offloaded optimizer the gradients of parameters that earlier micro-batches alone passed through.

    DeepSpeed (0.19.8) hands over at the last micro-batch of a step, and only what that passes through.
    """
    wrapper = engine.optimizer
    if not _is_offloaded(wrapper):
        return
    handed_over = wrapper.norm_for_param_grads.keys()
    if hasattr(wrapper, "_offload_boundary_param_ids"):  # stage 3
        groups = wrapper.fp16_groups
        wrapper._offload_boundary_param_ids -= {
            parameter.ds_id for group in groups for parameter in group if wrapper.get_param_id(parameter) in handed_over
        }
        wrapper._finalize_offload_gradient_accumulation()
    elif hasattr(wrapper, "_offload_accumulated_param_ids"):
        wrapper._offload_accumulated_param_ids -= handed_over
        wrapper._finalize_cpu_offload_gradient_accumulation()
