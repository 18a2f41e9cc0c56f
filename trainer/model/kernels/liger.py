"""Liger Kernel (Hsu et al., 2024): its Triton kernels in a model that is loaded.

Only what a layer computes is replaced: parameters, their names and their modules stay, so that adapters, ZeRO and
checkpoints see the same model. Liger also replaces some functions of transformers' module of this architecture, for as
long as the process lives. The only module that imports it.
"""

from collections.abc import Callable
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from shardtune.trainer.model.kernels.choice import Choice, Observed, choose_kernels
from shardtune.trainer.model.target_loss import chunked_loss

FUSED = ("rope", "rms_norm", "layer_norm", "swiglu", "geglu", "relu_squared")
LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
"""Liger would replace the model's forward method by one that computes the loss; ours stays (target_loss.py)."""


def settle_kernels(wanted: str, *, device: str, model_type: str, is_compiled: bool) -> Choice:
    """The kernels of a run on this device. Raises DataError if engine.kernels is `liger` and that is not possible."""
    known = None
    if wanted != "torch" and device == "cuda" and find_spec("liger_kernel") is not None:
        known = list(_appliers())
    return choose_kernels(wanted, Observed(device, model_type, known, is_compiled))


def use_liger(model: Any) -> None:
    """Lets the modules of the model compute with Liger's kernels."""
    apply = _appliers()[model.config.model_type]
    known = signature(apply).parameters
    fused = {name: True for name in FUSED if name in known}
    losses = {name: False for name in LOSSES if name in known}
    apply(model=model, **fused, **losses)


def liger_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, weights: Tensor | None) -> Tensor:
    """As chunked_loss, by Liger's fused linear cross entropy.

    Ours computes what Liger's does not: the number of correct targets in an evaluation, targets with weights, and the
    loss of a micro-batch without targets.
    """
    if weights is not None or not len(hidden) or not torch.is_grad_enabled():
        return chunked_loss(hidden, weight, bias, labels, weights)
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    loss = liger_fused_linear_cross_entropy(
        hidden, weight, labels, bias=bias, reduction="sum", accum_dtype=torch.float32
    ).float()
    return torch.stack((loss, loss.new_full((), float("nan"))))


def _appliers() -> dict[str, Callable[..., None]]:
    """Model type -> the function of Liger that replaces what its modules compute."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    appliers: dict[str, Callable[..., None]] = MODEL_TYPE_TO_APPLY_LIGER_FN
    return appliers
