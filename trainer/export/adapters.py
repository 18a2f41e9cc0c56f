"""Exports of a run with model.lora: adapters in peft's format, or the base model with the adapters merged."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shardtune.errors import CheckpointError
from shardtune.recipe.model.lora import LoraConfig
from shardtune.recipe.schema import Recipe
from shardtune.trainer.checkpoint.base_model import keep_base
from shardtune.trainer.checkpoint.manifest import WEIGHTS, Checkpoint
from shardtune.trainer.engine.snapshot import SavedTensors
from shardtune.trainer.model.lora import ADAPTER_WEIGHTS, adapter_names, merge, open_base, peft_config, peft_name
from shardtune.trainer.model.quantized.formats import rounded


def write_adapters(folder: Path, model: Any, checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Writes peft's two files and the record of their base model.

    `model` is on the meta device; the adapters get its dtype.
    """
    lora, base = _lora_of(recipe), checkpoint.manifest.base
    assert base is not None, "a checkpoint of adapters names their base"
    saved = _Weights(checkpoint)
    layers = {layer: (down, up) for layer, down, up in adapter_names(saved.shapes)}
    tensors = {peft_name(name): saved.read(name, model.dtype) for pair in layers.values() for name in pair}
    whole = dict(saved.of_model(model))
    for name, (saved_name, _) in whole.items():
        tensors[peft_name(name)] = saved.read(saved_name, model.dtype)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    modules = _whole_modules(model, set(whole))
    config = peft_config(model, lora, layers, modules, base=recipe.model.path, revision=base["revision"])
    config.save_pretrained(folder)
    keep_base(folder, base)


def merged_model(config: Any, model_class: Any, checkpoint: Checkpoint, recipe: Recipe, dtype: torch.dtype) -> Any:
    """The whole model with the adapters merged into its weights, in fp32 and cast once.

    The base is loaded in the dtype of its files, and each merged weight replaces the one of the base: memory holds no
    more than the larger of the two models and one weight in fp32. Layers that were quantized in training get the
    rounded weights, with which the adapters were trained.
    """
    lora = _lora_of(recipe)
    model = open_base(recipe, model_class, config, dtype=None)
    saved = _Weights(checkpoint)
    layers = {f"{layer}.weight": (layer, down, up) for layer, down, up in adapter_names(saved.shapes)}
    trained = {id(parameter): name for name, parameter in saved.of_model(model).values()}
    quantized: Mapping[str, Any] = (checkpoint.manifest.base or {}).get("quantized", {"layers": ()})
    are_quantized = {f"{layer}.weight" for layer in quantized["layers"]}
    for name, parameter in model.named_parameters():
        values = parameter.data
        is_transposed = not isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
        if name in are_quantized:
            values = rounded(values, quantized["kind"], is_transposed=is_transposed)
        if name in layers:
            _, down, up = layers.pop(name)
            low, high = (saved.read(matrix, torch.float32) for matrix in (down, up))
            _replace(parameter, merge(values, low, high, lora, is_transposed=is_transposed), dtype)
        elif id(parameter) in trained:
            _replace(parameter, saved.read(trained[id(parameter)], dtype), dtype)
        elif parameter.is_floating_point():
            _replace(parameter, values, dtype)
    if layers:
        raise CheckpointError(f"{checkpoint.path} is of another model: the base has no {next(iter(layers))}")
    for name, values in model.named_buffers():
        if name in saved.shapes:
            saved.read_into(name, values)
    return model


def _replace(parameter: nn.Parameter, values: Tensor, dtype: torch.dtype) -> None:
    """Sets the parameter's values and dtype, in place where they fit: freed memory may not be reused."""
    if parameter.dtype == dtype and parameter.shape == values.shape:
        parameter.data.copy_(values)
    else:
        parameter.data = values.to(dtype)


class _Weights:
    """The weights in a checkpoint, by the names of the adapted model."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._saved = SavedTensors(checkpoint.files(WEIGHTS))
        self.shapes = checkpoint.manifest.shapes

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        tensor = torch.empty(tuple(self.shapes[name]), dtype=dtype)
        self.read_into(name, tensor)
        return tensor

    def read_into(self, name: str, tensor: Tensor) -> None:
        self._saved.read(name, 0, tensor.view(-1))

    def of_model(self, model: nn.Module) -> dict[str, tuple[str, nn.Parameter]]:
        """Saved name and parameter of each fully trained parameter, by all names of the parameter in the model."""
        parameters = list(model.named_parameters(remove_duplicate=False))
        saved_names = {id(parameter): name for name, parameter in parameters if name in self.shapes}
        return {
            name: (saved_names[id(parameter)], parameter)
            for name, parameter in parameters
            if id(parameter) in saved_names
        }


def _whole_modules(model: nn.Module, trained: set[str]) -> Iterator[str]:
    """Names of the outermost modules whose parameters are all in `trained`."""

    def look(module: nn.Module, prefix: str) -> Iterator[str]:
        for name, child in module.named_children():
            full = f"{prefix}{name}"
            parameters = [f"{full}.{inner}" for inner, _ in child.named_parameters(remove_duplicate=False)]
            if parameters and trained.issuperset(parameters):
                yield full
            else:
                yield from look(child, f"{full}.")

    return look(model, "")


def _lora_of(recipe: Recipe) -> LoraConfig:
    assert recipe.model.lora is not None, "the recipe trains the whole model"
    return recipe.model.lora
