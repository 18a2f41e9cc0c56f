"""The tensors of a checkpoint as files: each rank writes the elements that it has, any rank reads those that it needs.

safetensors only: numbers and names, nothing that is executed when it is read. A tensor of the model is known by its
name and flattened; a file holds contiguous parts of such tensors, and where each begins. So a checkpoint has no layout
of its own: ranks, ZeRO stage and precision are those of whoever reads it.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shardtune.errors import CheckpointError
from shardtune.trainer.distributed.watchdog import beat

STARTS = "starts"
"""The key of a file's metadata: {name: first element} as JSON."""
READ_ELEMENTS = 16 * 2**20
"""Read at once, so that a large tensor is not in memory twice."""


@dataclass(frozen=True)
class Fragment:
    """Contiguous elements of a flattened tensor."""

    name: str
    start: int
    values: Tensor
    """Shape (elements,)."""


def to_host(fragments: Sequence[Fragment], room: Sequence[Fragment] = ()) -> list[Fragment]:
    """Copies in host memory, which later steps do not change; page-locked where they come from a GPU.

    Those of `room`, of earlier fragments of the same kind, are written over: new memory takes longer than the copy.
    """
    copies = []
    on_gpu = False
    old = {its.name: its.values for its in room}
    for its in fragments:
        on_gpu |= its.values.is_cuda
        copy = old.get(its.name)
        if copy is None or (copy.shape, copy.dtype) != (its.values.shape, its.values.dtype):
            copy = torch.empty(its.values.shape, dtype=its.values.dtype, pin_memory=its.values.is_cuda)
        copies.append(Fragment(its.name, its.start, copy.copy_(its.values, non_blocking=True)))
    if on_gpu:
        torch.cuda.synchronize()
    return copies


def write_fragments(path: Path, fragments: Sequence[Fragment]) -> None:
    """One file, on disk when this returns; a name may occur once. Raises OSError."""
    starts = {its.name: its.start for its in fragments}
    assert len(starts) == len(fragments), "a rank has two parts of one tensor"
    try:
        save_file({its.name: its.values for its in fragments}, path, metadata={STARTS: json.dumps(starts)})
    except SafetensorError as error:  # what the system said is inside its text
        raise OSError(f"{path}: {error}") from error
    path.chmod(0o644)  # safetensors 0.8 makes it the owner's alone
    sync(path)


def sync(path: Path) -> None:
    """Lets the disk have a file, or the names in a folder, before this returns. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SavedTensors:
    """The tensors of some files, by name, as if each of them were whole."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises CheckpointError if a file cannot be read."""
        self._paths = list(paths)
        self._files: list[Any] = []
        self._parts: dict[str, list[tuple[int, int, int]]] = {}
        for number, path in enumerate(paths):
            try:
                # pread: a file that is cut short is an error then; mapped, it would be a SIGBUS.
                file: Any = safe_open(path, framework="pt", backend="pread")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from error
            self._files.append(file)
            starts = json.loads(file.metadata()[STARTS])
            for name in file.keys():  # noqa: SIM118  it is no dict
                (numel,) = file.get_slice(name).get_shape()
                self._parts.setdefault(name, []).append((starts[name], numel, number))
        for parts in self._parts.values():
            parts.sort()

    def dtype(self, name: str) -> torch.dtype:
        """What the tensor of this name was saved in."""
        part: Tensor = self._files[self._parts[name][0][2]].get_slice(name)[:1]
        return part.dtype

    def read(self, name: str, start: int, into: Tensor) -> None:
        """Copies the elements from `start` on into all of `into`, of shape (elements,), cast to its dtype.

        Raises CheckpointError if some of them are in no file, or a file cannot be read.
        """
        parts = self._parts.get(name, [])
        done = 0
        while done < into.numel():
            first = start + done
            at = bisect_right(parts, first, key=lambda part: part[0]) - 1
            begin, numel, number = parts[at] if at >= 0 else (0, 0, 0)
            take = min(begin + numel - first, into.numel() - done, READ_ELEMENTS)
            if take <= 0:
                raise CheckpointError(f"{name}: its elements from {first} on are in no file of the checkpoint")
            try:
                values = self._files[number].get_slice(name)[first - begin : first - begin + take]
            except SafetensorError as error:
                raise CheckpointError(f"{self._paths[number]} cannot be read: {error}") from error
            into[done : done + take].copy_(values)
            done += take
            beat()


@dataclass(frozen=True)
class Snapshot:
    """One rank's part of all that training changes."""

    weights: Sequence[Fragment]
    """fp32 master weights under the parameters' names; what is not trained, as it is, unless it is a base model's."""
    states: Sequence[Fragment]
    """The optimizer's states of each element, under state_name."""
    keys: Sequence[str]
    """The optimizer's states of each element, such as exp_avg; none before the first step."""
    shapes: Mapping[str, Sequence[int]]
    """Of the parameters and persistent buffers that it keeps, whole."""
    scalars: Mapping[str, Mapping[str, float | int]]
    """The optimizer's other states of each parameter that has any of either kind."""
    loss_scale: Mapping[str, float]

    @property
    def num_bytes(self) -> int:
        return sum(its.values.nbytes for its in (*self.weights, *self.states))


@dataclass(frozen=True)
class Saved:
    """What the snapshots of all ranks held, put together."""

    path: Path
    weights: SavedTensors
    states: SavedTensors | None
    """None if only the weights are wanted."""
    shapes: Mapping[str, Sequence[int]]
    keys: Sequence[str]
    scalars: Mapping[str, Mapping[str, float | int]]
    loss_scale: Mapping[str, float]

    def refuse_another_model(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raises CheckpointError unless it is of a model with these tensors."""
        theirs, ours = ({name: list(shape) for name, shape in its.items()} for its in (self.shapes, shapes))
        names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        if names:
            lines = [f"{name}: {theirs.get(name, 'not there')} there, {ours.get(name, 'none')} here" for name in names]
            more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
            raise CheckpointError(f"{self.path} is of another model:\n  " + "\n  ".join([*lines[:10], *more]))


def state_name(key: str, name: str) -> str:
    """What an optimizer state of a parameter is called in a file, such as `exp_avg/lm_head.weight`."""
    return f"{key}/{name}"
