"""What the weights of a run with model.lora are exported as: adapters in peft's files, or a base with them inside."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shardtune.errors import CheckpointError
from shardtune.recipe.lora import LoraConfig
from shardtune.recipe.schema import Recipe
from shardtune.trainer.checkpoint.base_model import keep_base
from shardtune.trainer.checkpoint.manifest import WEIGHTS, Checkpoint
from shardtune.trainer.engine.snapshot import SavedTensors
from shardtune.trainer.model.lora import ADAPTER_WEIGHTS, adapter_names, merge, open_base, peft_config, peft_name


def write_adapters(folder: Path, model: Any, checkpoint: Checkpoint, recipe: Recipe) -> None:
    """The two files of peft, and which base they belong to. `model` has the dtype that they get, and no memory."""
    lora, base = _lora_of(recipe), checkpoint.manifest.base
    assert base is not None, "a checkpoint of adapters names their base"
    saved = _Weights(checkpoint)
    layers = {layer: (down, up) for layer, down, up in adapter_names(saved.shapes)}
    tensors = {peft_name(name): saved.read(name, model.dtype) for pair in layers.values() for name in pair}
    whole = dict(saved.of_model(model))
    for name, (its_name, _) in whole.items():
        tensors[peft_name(name)] = saved.read(its_name, model.dtype)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    modules = _whole_modules(model, set(whole))
    its = peft_config(model, lora, layers, modules, base=recipe.model.path, revision=base["revision"])
    its.save_pretrained(folder)
    keep_base(folder, base)


def merged_model(config: Any, model_class: Any, checkpoint: Checkpoint, recipe: Recipe, dtype: torch.dtype) -> Any:
    """The whole model with the adapters in its weights, which are computed in fp32 and cast once.

    The base is held as its files have it, and each weight of it given up for the merged one: no more is in memory than
    the larger of the two models, and one weight in fp32.
    """
    lora = _lora_of(recipe)
    model = open_base(recipe, model_class, config, dtype=None)
    saved = _Weights(checkpoint)
    layers = {f"{layer}.weight": (layer, down, up) for layer, down, up in adapter_names(saved.shapes)}
    trained = {id(its): name for name, its in saved.of_model(model).values()}
    for name, parameter in model.named_parameters():
        if name in layers:
            layer, down, up = layers.pop(name)
            is_transposed = not isinstance(model.get_submodule(layer), nn.Linear)
            low, high = (saved.read(matrix, torch.float32) for matrix in (down, up))
            _replace(parameter, merge(parameter.data, low, high, lora, is_transposed=is_transposed), dtype)
        elif id(parameter) in trained:
            _replace(parameter, saved.read(trained[id(parameter)], dtype), dtype)
        elif parameter.is_floating_point():
            _replace(parameter, parameter.data, dtype)
    if layers:
        raise CheckpointError(f"{checkpoint.path} is of another model: there is no {next(iter(layers))} in the base")
    for name, values in model.named_buffers():
        if name in saved.shapes:
            saved.read_into(name, values)
    return model


def _replace(parameter: nn.Parameter, values: Tensor, dtype: torch.dtype) -> None:
    """Gives it these values in this dtype, in the memory that it has if they fit: what is freed may not come back."""
    if parameter.dtype == dtype and parameter.shape == values.shape:
        parameter.data.copy_(values)
    else:
        parameter.data = values.to(dtype)


class _Weights:
    """What a checkpoint keeps, by the names of the adapted model."""

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
        """The model's parameters that were trained as a whole, by each name that they have: the saved one, and it."""
        everyone = list(model.named_parameters(remove_duplicate=False))
        names = {id(parameter): name for name, parameter in everyone if name in self.shapes}
        return {name: (names[id(its)], its) for name, its in everyone if id(its) in names}


def _whole_modules(model: nn.Module, trained: set[str]) -> Iterator[str]:
    """The outermost modules of which every parameter is among the trained ones."""

    def look(module: nn.Module, prefix: str) -> Iterator[str]:
        for name, child in module.named_children():
            full = f"{prefix}{name}"
            of_child = [f"{full}.{its}" for its, _ in child.named_parameters(remove_duplicate=False)]
            if of_child and trained.issuperset(of_child):
                yield full
            else:
                yield from look(child, f"{full}.")

    return look(model, "")


def _lora_of(recipe: Recipe) -> LoraConfig:
    assert recipe.model.lora is not None, "the recipe trains the whole model"
    return recipe.model.lora
