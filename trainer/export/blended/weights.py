"""The weights of a model between a base and a tuned one: base + alpha (tuned - base).

The interpolation of WiSE-FT (Wortsman et al., 2022) and LM-Cocktail (Xiao et al., 2023). A file has the header of the
tuned model's, and is written tensor by tensor: memory holds one of them, and the base's. Computed in fp32, and cast
once to the dtype of the tuned model's file.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from shardtune.errors import CheckpointError
from shardtune.trainer.engine.snapshot import sync
from shardtune.trainer.export.blended.base_tensors import BaseModel
from shardtune.trainer.model.lora import OF_PEFT

UP = ".lora_B.weight"
"""How peft names the second matrix of an adapter: with it, the product of both is scaled."""
DOWN = ".lora_A.weight"


@dataclass(frozen=True)
class TunedWeights:
    """The files of an exported model, or of its adapters."""

    folder: Path

    @cached_property
    def files(self) -> list[Path]:
        """The safetensors files, by their names. Raises CheckpointError if there are none."""
        paths = sorted(self.folder.glob("*.safetensors"))
        if not paths:
            raise CheckpointError(f"{self.folder} has no weights (*.safetensors); export the model again")
        return paths

    @cached_property
    def names(self) -> list[str]:
        """The names of the tensors that have to be blended with the base's, as the model has them."""
        every = [name for path in self.files for name in _layout(path)]
        return [name.removeprefix(OF_PEFT) for name in every if not name.endswith((UP, DOWN))]

    def write(self, folder: Path, blend: Callable[[str, Tensor], Tensor]) -> None:
        """Writes each file once more, with the tensors that `blend` makes of the tuned ones. Raises OSError."""
        for path in self.files:
            _write(path, folder / path.name, blend)
            sync(folder / path.name)


@dataclass(frozen=True)
class Blend:
    """What a tensor of the tuned model becomes."""

    alpha: float
    """0 is the base, 1 the tuned model."""
    base: BaseModel | None
    """None if no tensor has to be read from it: those of adapters are scaled."""

    def __call__(self, name: str, tuned: Tensor) -> Tensor:
        """The tensor at `alpha`, of the same shape and dtype. Raises CheckpointError if the base has another shape."""
        if name.endswith(DOWN):
            return tuned
        if name.endswith(UP):
            return (tuned.float() * self.alpha).to(tuned.dtype)
        name = name.removeprefix(OF_PEFT)
        assert self.base is not None, "only adapters have no base"
        if name in self.base.new or not tuned.is_floating_point():
            return tuned
        return self._between(name, self.base.read(name), tuned, self.base)

    def _between(self, name: str, base: Tensor, tuned: Tensor, model: BaseModel) -> Tensor:
        shared = _shared(base, tuned, model.num_tokens)
        if shared is None:
            raise CheckpointError(
                f"{name}: {list(base.shape)} in the base model, {list(tuned.shape)} in the tuned model; restore the "
                "base model that it was tuned from"
            )
        blended = tuned.clone()
        # lerp is exact at both ends.
        blended[shared] = torch.lerp(base.float(), tuned[shared].float(), self.alpha).to(tuned.dtype)
        if name in model.embeddings and model.new_tokens:
            rows = torch.tensor(model.new_tokens)
            blended[rows] = tuned[rows]
        return blended


def _shared(base: Tensor, tuned: Tensor, num_tokens: int) -> tuple[slice, ...] | None:
    """The part of the tuned tensor that the base has: all of it, or what is left of added tokens; None if the shapes
    differ otherwise."""
    if base.dim() != tuned.dim():
        return None
    differ = [(size, more) for size, more in zip(base.shape, tuned.shape, strict=True) if size != more]
    if any(size != num_tokens or more < size for size, more in differ):
        return None
    return tuple(slice(size) for size in base.shape)


def _layout(path: Path) -> dict[str, list[int]]:
    """Where the bytes of each tensor of a safetensors file begin and end, in the order of the bytes."""
    with path.open("rb") as file:
        header: Mapping[str, Mapping[str, list[int]]] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return dict(sorted(offsets.items(), key=lambda item: item[1]))


def _write(tuned: Path, target: Path, blend: Callable[[str, Tensor], Tensor]) -> None:
    """Writes a file with the header of `tuned`, and what `blend` makes of its tensors."""
    with tuned.open("rb") as source, target.open("wb") as file:
        size = source.read(8)
        file.write(size + source.read(int.from_bytes(size, "little")))
        with safe_open(tuned, framework="pt", backend="pread") as tensors:
            for name in _layout(tuned):
                values = blend(name, tensors.get_tensor(name)).contiguous()
                file.write(values.view(-1).view(torch.uint8).numpy().data)
