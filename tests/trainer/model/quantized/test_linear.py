"""A quantized layer computes with its restored weights, forwards and backwards, whatever the model is cast to."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from shardtune.errors import ConfigError, DataError, LaunchError
from shardtune.trainer.model.quantized import loading
from shardtune.trainer.model.quantized.formats import FORMATS, rounded
from shardtune.trainer.model.quantized.linear import QuantizedLinear, held_bytes
from tests.support.runs import tiny_recipe

KINDS = ["nf4", "int8"]


def layer_of(weight: torch.Tensor, kind: str) -> QuantizedLinear:
    outputs, inputs = weight.shape
    layer = QuantizedLinear(inputs, outputs, has_bias=True, kind=kind, dtype=weight.dtype)
    layer.bias = nn.Parameter(torch.arange(outputs, dtype=weight.dtype), requires_grad=False)
    layer.hold(FORMATS[kind].pack(weight))
    return layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_and_the_gradient_of_its_inputs_are_those_of_the_restored_weights(
    kind: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = layer_of(torch.randn(24, 40).to(dtype), kind)
    inputs = torch.randn(3, 5, 40, dtype=dtype, requires_grad=True)
    same = inputs.detach().clone().requires_grad_()
    grad = torch.randn(3, 5, 24, dtype=dtype)
    output = layer(inputs)
    expected = functional.linear(same, layer.restored(dtype), layer.bias)
    output.backward(grad)
    expected.backward(grad)
    assert torch.equal(output, expected) and output.dtype == dtype
    assert inputs.grad is not None and same.grad is not None and torch.equal(inputs.grad, same.grad)
    assert not list(layer.state_dict().keys() - {"bias"}) and not any(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize(("kind", "most"), [("nf4", 0.1), ("int8", 0.009)])
@pytest.mark.parametrize("shape", [(24, 40), (30, 17), (1, 3)])
def test_restored_weights_are_near_those_they_are_from(kind: str, most: float, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    error = (rounded(weight, kind) - weight).norm() / weight.norm()
    assert 0 < error < most + (0.05 if weight.numel() < 64 else 0)
    assert torch.equal(rounded(weight, kind), layer_of(weight, kind).restored(torch.float32))
    assert torch.equal(rounded(weight.T, kind, is_transposed=True), rounded(weight, kind).T)


def test_a_row_of_zeros_stays_zero() -> None:
    weight = torch.zeros(4, 64)
    weight[1] = torch.linspace(-1, 1, 64)
    for kind in KINDS:
        assert not rounded(weight, kind)[0].any(), kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_cast_of_the_model_leaves_the_weights_as_they_were(kind: str) -> None:
    torch.manual_seed(0)
    layer = layer_of(torch.randn(24, 40), kind)
    before = layer.restored(torch.float32)
    assert layer.bfloat16().float().weight.dtype == torch.float32
    assert torch.equal(layer.restored(torch.float32), before)


@pytest.mark.parametrize(("kind", "bits"), [("nf4", 4.127 + 8 * 1028 / 1024**2), ("int8", 8 + 32 / 1024)])
def test_weights_take_the_bits_that_the_papers_say(kind: str, bits: float) -> None:
    layer = layer_of(torch.randn(1024, 1024), kind)
    assert 8 * held_bytes(layer) / 1024**2 == pytest.approx(bits, rel=1e-3)


def test_zero_3_and_a_quantized_base_are_refused_in_one_line() -> None:
    from shardtune.ds_config.resolve import ds_config_of

    recipe = tiny_recipe(Path("tiny"), "model.lora.quantize_base=nf4", "engine.deepspeed=zero3")
    with pytest.raises(ConfigError, match=r"^ds_configs/zero3.json: .*stage: 3 divides .*set engine.deepspeed to null"):
        ds_config_of(recipe, hidden_size=32)


def test_without_bitsandbytes_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r"pip install 'shardtune\[quantized\]'"):
        loading.refuse_without_bitsandbytes(tiny_recipe(Path("tiny"), "model.lora.quantize_base=nf4"))
    loading.refuse_without_bitsandbytes(tiny_recipe(Path("tiny"), "model.lora.quantize_base=int8"))
    loading.refuse_without_bitsandbytes(tiny_recipe(Path("tiny")))


def test_weights_that_are_quantized_already_are_refused() -> None:
    from types import SimpleNamespace

    with pytest.raises(DataError, match="quantized already"):
        loading.refuse_quantized(SimpleNamespace(quantization_config={"quant_method": "gptq"}), "some/model")


def test_check_and_the_start_refuse_before_data_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from shardtune.run_dir.run import Run
    from shardtune.trainer import __main__ as process
    from shardtune.trainer.commands.check import check

    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    recipe = tiny_recipe(Path("nowhere"), "model.lora.quantize_base=nf4")
    with pytest.raises(LaunchError, match="needs bitsandbytes"):
        check(recipe, world_size=1, num_previews=0)
    with pytest.raises(LaunchError, match="needs bitsandbytes"):
        process._refuse_without_packages(Run(recipe, Path("run"), Path("run")))
