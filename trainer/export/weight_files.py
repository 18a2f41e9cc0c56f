"""The files that a whole model's weights are exported in, each of which any rank can write by itself."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import MODEL
from shardtune.trainer.checkpoint.manifest import WEIGHTS, Checkpoint
from shardtune.trainer.engine.snapshot import SavedTensors

LAYER = re.compile(r"(.*?\.\d+)\.")
"""The name of a layer, at the beginning of the names of its weights."""


@dataclass(frozen=True)
class Piece:
    """A part of the model that is read at once, and the files that it fills."""

    sources: tuple[str, ...]
    """The weights' names in the model, as it is trained."""
    files: Mapping[str, tuple[str, ...]]
    """File name -> names of its tensors, as the hub has them."""


class WeightFiles:
    """The weights of a checkpoint in the files that `save_pretrained` would write, but piece by piece.

    A piece is whole layers, because the hub's files have some weights under other names and in other shapes than the
    trained model (which keeps the experts of a layer in one tensor).
    """

    def __init__(self, model: Any, checkpoint: Checkpoint, max_bytes: int) -> None:
        """`model` is on the meta device; the weights get its dtype. `max_bytes` is the largest size of a file.

        Raises CheckpointError if the checkpoint is of another model.
        """
        self._model, self._checkpoint = model, checkpoint
        self._shapes = checkpoint.manifest.shapes
        self._saved_names = _saved_names(model, checkpoint)
        self._parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        tensors = {name: self._empty(name, "meta") for name in _kept(model)}
        self._num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        self.pieces = _numbered(list(self._pieces(tensors, max_bytes)))

    @property
    def index(self) -> dict[str, Any] | None:
        """The content of INDEX; None if there is one file, which needs none."""
        weight_map = {name: file for piece in self.pieces for file, names in piece.files.items() for name in names}
        if len(set(weight_map.values())) == 1:
            return None
        sizes = {"total_parameters": self._model.num_parameters(), "total_size": self._num_bytes}
        return {"metadata": sizes, "weight_map": dict(sorted(weight_map.items()))}

    def write(self, piece: Piece, folder: Path) -> None:
        """Reads the weights of a piece, cast once, and writes its files. Raises OSError or CheckpointError."""
        tensors = {}
        for name in piece.sources:
            tensors[name] = self._empty(name, "cpu")
            self._saved.read(self._saved_names[name], 0, tensors[name].view(-1))
        tensors = _as_on_the_hub(self._model, tensors)
        for file, names in piece.files.items():
            save_file({name: tensors.pop(name).contiguous() for name in names}, folder / file, {"format": "pt"})

    @cached_property
    def _saved(self) -> SavedTensors:
        """Opened by a rank that writes a piece, and not by the others. Raises CheckpointError if a file cannot be
        read."""
        return SavedTensors(self._checkpoint.files(WEIGHTS))

    def _empty(self, name: str, device: str) -> Tensor:
        saved_name = self._saved_names[name]
        # A buffer keeps its dtype: it may be a count, which bf16 cannot represent.
        dtype = self._model.dtype if name in self._parameters else self._saved.dtype(saved_name)
        return torch.empty(tuple(self._shapes[saved_name]), dtype=dtype, device=device)

    def _pieces(self, tensors: Mapping[str, Tensor], max_bytes: int) -> Iterator[Piece]:
        """The pieces in the order of the model; the numbers in the names of their files are still missing."""
        groups: dict[str, list[str]] = {}
        for name in tensors:
            layer = LAYER.match(name)
            groups.setdefault(layer[1] if layer else name, []).append(name)
        whole = _as_on_the_hub(self._model, dict(tensors))
        converted = {
            layer: _as_on_the_hub(self._model, {name: tensors[name] for name in names})
            for layer, names in groups.items()
        }
        if sorted(whole) != sorted(name for group in converted.values() for name in group):
            groups, converted = {"": list(tensors)}, {"": whole}  # a conversion reaches across layers
        sizes = {layer: sum(tensor.nbytes for tensor in group.values()) for layer, group in converted.items()}
        for layers in _filled(sizes, max_bytes):
            bytes_of = {name: tensor.nbytes for layer in layers for name, tensor in converted[layer].items()}
            files = {str(number): tuple(names) for number, names in enumerate(_filled(bytes_of, max_bytes))}
            yield Piece(tuple(name for layer in layers for name in groups[layer]), files)


INDEX = SAFE_WEIGHTS_INDEX_NAME
"""The file that says which weight is in which file, if there are several."""


def _as_on_the_hub(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names and in the shapes that the hub's files have. (The import takes seconds.)"""
    from transformers.core_model_loading import revert_weight_conversion

    converted: dict[str, Tensor] = revert_weight_conversion(model, tensors)
    return converted


def _saved_names(model: Any, checkpoint: Checkpoint) -> dict[str, str]:
    """Name in the model's state dict -> name in the checkpoint, which has a shared weight once."""
    shapes, kept = checkpoint.manifest.shapes, model.state_dict().keys()
    names: dict[int, list[str]] = {}
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    for name, empty in [*model.named_parameters(remove_duplicate=False), *buffers.items()]:
        names.setdefault(id(empty), []).append(name)
    saved: dict[str, str] = {}
    for same in names.values():
        known = next((name for name in same if name in shapes), None)
        if known is None:
            raise CheckpointError(f"{checkpoint.path} is of another model than the run's {MODEL}/: it has no {same[0]}")
        saved |= dict.fromkeys(same, known)
    return saved


def _kept(model: Any) -> list[str]:
    """The names of the weights that an export has: a shared weight once, under the name that loading expects."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    state = {name: tensor for name, tensor in model.state_dict().items() if name not in _ignored(model)}
    return list(remove_tied_weights_from_state_dict(state, model))


def _ignored(model: Any) -> Iterable[str]:
    return model._keys_to_ignore_on_save or ()


def _filled(sizes: Mapping[str, int], max_bytes: int) -> Iterator[list[str]]:
    """The names in their order, divided so that each part is no larger than `max_bytes` if it is not a single one."""
    part: list[str] = []
    for name, size in sizes.items():
        if part and sum(sizes[other] for other in part) + size > max_bytes:
            yield part
            part = []
        part.append(name)
    if part:
        yield part


def _numbered(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces with their files named as `save_pretrained` does."""
    count = sum(len(piece.files) for piece in pieces)
    stem, ending = SAFE_WEIGHTS_NAME.split(".")
    every = (
        SAFE_WEIGHTS_NAME if count == 1 else f"{stem}-{at:05}-of-{count:05}.{ending}" for at in range(1, count + 1)
    )
    return [Piece(piece.sources, {next(every): names for names in piece.files.values()}) for piece in pieces]
