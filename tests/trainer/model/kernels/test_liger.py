"""Liger Kernel is called as its functions of version 0.8.5 are declared; it needs a GPU, so these are stand-ins."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from shardtune.trainer.model.kernels.liger import liger_loss, settle_kernels, use_liger
from shardtune.trainer.model.target_loss import chunked_loss

Calls = list[dict[str, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The arguments with which functions of liger_kernel are called; their signatures are those of 0.8.5."""
    made: Calls = []

    def apply_liger_kernel_to_llama(
        rope: bool = True,
        cross_entropy: bool = False,
        fused_linear_cross_entropy: bool = True,
        rms_norm: bool = True,
        swiglu: bool = True,
        model: Any = None,
    ) -> None:
        made.append(locals())

    def apply_liger_kernel_to_pixtral(
        rope: bool = True, rms_norm: bool = True, swiglu: bool = True, model: Any = None
    ) -> None:
        made.append(locals())

    def liger_fused_linear_cross_entropy(
        input: Tensor,
        weight: Tensor,
        target: Tensor,
        bias: Tensor | None = None,
        ce_weight: Tensor | None = None,
        ignore_index: int = -100,
        lse_square_scale: float = 0.0,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        softcap: float | None = None,
        return_z_loss: bool = False,
        accum_dtype: torch.dtype | None = None,
    ) -> Tensor:
        made.append(locals())
        return cross_entropy(linear(input, weight, bias), target, ignore_index=ignore_index, reduction=reduction)

    patches = {"llama": apply_liger_kernel_to_llama, "pixtral": apply_liger_kernel_to_pixtral}
    modules = {
        "liger_kernel": {},
        "liger_kernel.transformers": {},
        "liger_kernel.transformers.monkey_patch": {"MODEL_TYPE_TO_APPLY_LIGER_FN": patches},
        "liger_kernel.transformers.functional": {"liger_fused_linear_cross_entropy": liger_fused_linear_cross_entropy},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("shardtune.trainer.model.kernels.liger.find_spec", sys.modules.get)
    return made


def test_layers_get_ligers_kernels_and_the_forward_method_stays(calls: Calls) -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="llama"))
    use_liger(model)
    fused = {"rope": True, "rms_norm": True, "swiglu": True}
    assert calls[0].items() >= (fused | {"cross_entropy": False, "fused_linear_cross_entropy": False}).items()
    assert calls[0]["model"] is model
    use_liger(SimpleNamespace(config=SimpleNamespace(model_type="pixtral")))
    assert calls[1].items() >= fused.items()


def test_what_is_installed_decides_on_gpus_and_is_not_even_imported_elsewhere(calls: Calls) -> None:
    assert settle_kernels("auto", device="cuda", model_type="llama", is_compiled=False).uses_liger
    assert not settle_kernels("auto", device="cuda", model_type="mamba", is_compiled=False).uses_liger
    del sys.modules["liger_kernel.transformers.monkey_patch"]
    assert not settle_kernels("auto", device="cpu", model_type="llama", is_compiled=False).uses_liger


def test_ligers_loss_is_ours_with_the_same_gradients(calls: Calls) -> None:
    torch.manual_seed(0)
    labels = torch.tensor([1, 4, 0, 2, 2])
    results = []
    for loss_of in (liger_loss, chunked_loss):
        torch.manual_seed(1)
        hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
        loss = loss_of(hidden, weight, None, labels, None)
        loss[0].backward()  # type: ignore[no-untyped-call]
        results.append((loss.detach(), hidden.grad, weight.grad))
    (ours, *our_grads), (theirs, *their_grads) = results
    assert len(calls) == 1 and calls[0]["reduction"] == "sum" and calls[0]["accum_dtype"] == torch.float32
    torch.testing.assert_close(theirs, ours, equal_nan=True)
    torch.testing.assert_close(their_grads, our_grads)


def test_weighted_targets_evaluations_and_batches_without_targets_have_our_loss(calls: Calls) -> None:
    hidden, weight, labels = torch.randn(3, 8), torch.randn(6, 8), torch.tensor([1, 4, 0])
    liger_loss(hidden, weight, None, labels, torch.tensor([0.5, 1, 2]))
    liger_loss(hidden[:0], weight, None, labels[:0], None)
    with torch.no_grad():
        assert float(liger_loss(hidden, weight, None, labels, None)[1]) in (0, 1, 2, 3), "the number of correct targets"
    assert not calls
