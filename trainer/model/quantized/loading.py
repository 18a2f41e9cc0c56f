"""Quantizes the weights of a pretrained model one by one while they are read, by the interface of transformers.

Memory holds the quantized model and one weight matrix as it is in the file. Weights are quantized from the dtype of
their file, so that the base is the same in each precision of training.
"""

import copy
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from shardtune.counted import counted
from shardtune.errors import DataError, LaunchError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model.quantized.formats import FORMATS
from shardtune.trainer.model.quantized.linear import QuantizedLinear, held_bytes, num_quantized, quantized_layers

METHOD = "shardtune"
"""The name under which transformers knows the quantizer."""


def refuse_without_bitsandbytes(recipe: Recipe) -> None:
    """Raises LaunchError if the recipe needs bitsandbytes, and it is not installed."""
    lora = recipe.model.lora
    if lora is not None and lora.quantize_base == "nf4" and find_spec("bitsandbytes") is None:
        raise LaunchError(
            "model.lora.quantize_base: nf4 needs bitsandbytes, which is not installed: pip install "
            "'shardtune[quantized]'; or set it to int8"
        )


@register_quantization_config(METHOD)
class QuantizedLayers(QuantizationConfigMixin):
    """Which layers are quantized, and in which format: an argument of from_pretrained."""

    def __init__(self, layers: Collection[str], kind: str) -> None:
        self.quant_method: Any = METHOD
        self.layers, self.kind = tuple(layers), kind


class _Pack(ConversionOps):
    """Packs a weight as soon as it is read. The loader gets an empty one in its place."""

    def __init__(self, quantizer: "_Quantizer") -> None:
        self._quantizer = quantizer

    def convert(self, input_dict: dict[str, Any], *_: Any, **__: Any) -> Any:
        for name, values in input_dict.items():
            weight = values[0] if isinstance(values, list) else values
            layer = name.removesuffix(".weight")
            self._quantizer.packed[layer] = FORMATS[self._quantizer.config.kind].pack(
                weight.T if layer in self._quantizer.transposed else weight
            )
        return {name: nn.Parameter(torch.empty(0), requires_grad=False) for name in input_dict}


@register_quantizer(METHOD)
class _Quantizer(HfQuantizer):
    """Puts QuantizedLinear layers in the place of those to be quantized, and packs their weights."""

    def __init__(self, quantization_config: QuantizedLayers, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.config = quantization_config
        self.packed: dict[str, dict[str, Tensor]] = {}
        self.transposed: set[str] = set()

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        for name in self.config.layers:
            layer = model.get_submodule(name)
            if not isinstance(layer, nn.Linear):
                self.transposed.add(name)
            model.set_submodule(name, empty_layer(layer, self.config.kind))

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        layer, _dot, name = param_name.rpartition(".")
        return name == "weight" and isinstance(model.get_submodule(layer), QuantizedLinear)

    def get_quantize_ops(self) -> _Pack:
        return _Pack(self)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        for name, layer in quantized_layers(model).items():
            layer.weight = nn.Parameter(torch.empty(0, dtype=model.dtype), requires_grad=False)
            layer.hold(self.packed.pop(name))
        return model

    def is_serializable(self) -> bool:
        return False

    @property
    def quantized_element_size(self) -> float:
        return 0.52 if self.config.kind == "nf4" else 1.0

    @property
    def is_trainable(self) -> bool:
        return True


def empty_layer(layer: Any, kind: str) -> QuantizedLinear:
    """A quantized layer of the size of a linear one, without values."""
    rows, columns = layer.weight.shape
    num_inputs, num_outputs = (columns, rows) if isinstance(layer, nn.Linear) else (rows, columns)
    return QuantizedLinear(
        num_inputs, num_outputs, has_bias=layer.bias is not None, kind=kind, dtype=layer.weight.dtype
    )


def quantize_empty(model: Any, layers: Collection[str], kind: str) -> None:
    """Replaces these layers of a model on the meta device by quantized ones, which have no values either."""
    for name in layers:
        layer = empty_layer(model.get_submodule(name), kind)
        layer.hold(FORMATS[kind].empty((layer.out_features, layer.in_features)))
        model.set_submodule(name, layer)


def quantizing(config: Any, layers: Collection[str], kind: str, device: torch.device) -> dict[str, Any]:
    """The arguments by which from_pretrained quantizes these layers, on a device on which all weights then are.

    They are read in the dtype of their files, whatever the config says; settle_quantized casts the others.
    """
    config = copy.deepcopy(config)
    config.dtype = None
    return {
        "config": config,
        "dtype": "auto",
        "quantization_config": QuantizedLayers(layers, kind),
        "device_map": {"": device},
    }


def refuse_quantized(config: Any, path: str) -> None:
    """Raises DataError if the files of a model hold quantized weights already."""
    if getattr(config, "quantization_config", None) is not None:
        raise DataError(
            f"model.lora.quantize_base: the weights of {path!r} are quantized already (quantization_config in its "
            "config.json); give the model that they were made from, or remove the key"
        )


def quantized_as(model: nn.Module) -> Mapping[str, Any] | None:
    """The format, and the names of the layers in it before they got adapters; None if there are none."""
    layers = quantized_layers(model)
    kinds = {layer.kind for layer in layers.values()}
    names = sorted(name.removesuffix(".base_layer") for name in layers)
    return {"kind": kinds.pop(), "layers": names} if kinds else None


def describe_quantized(model: nn.Module) -> str | None:
    """One line on how much of the model is quantized; None if nothing is."""
    layers = quantized_layers(model)
    if not layers:
        return None
    packed = num_quantized(model)
    whole = packed + sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    (kind,) = {layer.kind for layer in layers.values()}
    return (
        f"model.lora.quantize_base: {counted(len(layers), 'linear layer')} with {packed / 1e6:,.1f} M of "
        f"{whole / 1e6:,.1f} M frozen weights are held as {kind}, in {held_bytes(model) / 1e6:,.1f} MB"
    )


def settle_quantized(model: Any, dtype: torch.dtype) -> None:
    """Casts what is not quantized of a model that was loaded in the dtype of its files, but for buffers; and removes
    what the loader has noted on the model and its config, which are saved as those of the whole model."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    for layer in quantized_layers(model).values():
        layer.weight = layer.weight.to(dtype)
    model.config.dtype = dtype
    model.hf_quantizer.remove_quantization_config(model)
    for module in model.modules():
        config = getattr(module, "config", None)
        for name in ("quantization_config", "_is_quantized"):
            if config is not None and name in vars(config):
                delattr(config, name)
