"""The tensors of a checkpoint as files: each rank writes the elements that it holds, any rank reads what it needs.

safetensors only: numbers and names, nothing that is executed when it is read. A tensor of the model is identified by
its name and flattened; a file holds contiguous parts of such tensors, and where each begins. So a checkpoint has no
layout of its own: it can be read with any number of ranks, ZeRO stage and precision.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import follow_umask
from shardtune.trainer.distributed.watchdog import beat
from shardtune.trainer.engine.memory.host_room import HostRoom

STARTS = "starts"
"""The key of a file's metadata: {name: first element} as JSON."""
READ_ELEMENTS = 16 * 2**20
"""Elements read at a time, so that a large tensor is not in memory twice."""


@dataclass(frozen=True)
class Fragment:
    """Contiguous elements of a flattened tensor."""

    name: str
    start: int
    values: Tensor
    """Shape (elements,)."""


def to_host(fragments: Sequence[Fragment], room: HostRoom) -> list[Fragment]:
    """Copies the fragments into `room`, where later steps do not change them; overwrites its earlier copies."""
    copies = room.copy([fragment.values for fragment in fragments])
    return [replace(fragment, values=copy) for fragment, copy in zip(fragments, copies, strict=True)]


def write_fragments(path: Path, fragments: Sequence[Fragment]) -> None:
    """Writes the fragments to one file, which is on disk when this returns; each name occurs once. Raises OSError."""
    starts = {fragment.name: fragment.start for fragment in fragments}
    assert len(starts) == len(fragments), "a rank has two parts of one tensor"
    try:
        tensors = {fragment.name: fragment.values for fragment in fragments}
        save_file(tensors, path, metadata={STARTS: json.dumps(starts)})
    except SafetensorError as error:  # its text contains the system's error
        raise OSError(f"{path}: {error}") from error
    follow_umask(path)  # safetensors 0.8 makes it readable by the owner only
    sync(path)


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk before it returns. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SavedTensors:
    """The tensors of several files, by name, as if each tensor were whole."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises CheckpointError if a file cannot be read."""
        self._paths = list(paths)
        self._files: list[Any] = []
        self._parts: dict[str, list[tuple[int, int, int]]] = {}
        for number, path in enumerate(paths):
            try:
                # pread: a truncated file is then an error; mapped, it would be a SIGBUS.
                file: Any = safe_open(path, framework="pt", backend="pread")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from error
            self._files.append(file)
            starts = json.loads(file.metadata()[STARTS])
            for name in file.keys():  # noqa: SIM118  it is not a dict
                (numel,) = file.get_slice(name).get_shape()
                self._parts.setdefault(name, []).append((starts[name], numel, number))
        for parts in self._parts.values():
            parts.sort()

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which the tensor of this name was saved."""
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
                raise CheckpointError(f"{name}: no file of the checkpoint holds its elements from {first} on")
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
    """fp32 master weights under the parameters' names; what is not trained in its dtype, except for a base model."""
    states: Sequence[Fragment]
    """The optimizer states of each element, under state_name."""
    keys: Sequence[str]
    """Names of the optimizer states of each element, such as exp_avg; empty before the first step."""
    shapes: Mapping[str, Sequence[int]]
    """Whole shapes of the parameters and persistent buffers in the snapshot."""
    scalars: Mapping[str, Mapping[str, float | int]]
    """The optimizer's other states of each parameter that has states of either kind."""
    loss_scale: Mapping[str, float]

    @property
    def num_bytes(self) -> int:
        return sum(fragment.values.nbytes for fragment in (*self.weights, *self.states))


@dataclass(frozen=True)
class Saved:
    """The snapshots of all ranks, put together."""

    path: Path
    weights: SavedTensors
    states: SavedTensors | None
    """None if only the weights are needed."""
    shapes: Mapping[str, Sequence[int]]
    keys: Sequence[str]
    scalars: Mapping[str, Mapping[str, float | int]]
    loss_scale: Mapping[str, float]

    def refuse_another_model(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raises CheckpointError unless the checkpoint belongs to a model with tensors of these shapes."""
        saved, wanted = ({name: list(shape) for name, shape in each.items()} for each in (self.shapes, shapes))
        lines = [
            f"{name}: {saved.get(name, 'missing')} in the checkpoint, {wanted.get(name, 'missing')} in this model"
            for name in {**saved, **wanted}
            if saved.get(name) != wanted.get(name)
        ]
        if lines:
            more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
            raise CheckpointError(f"{self.path} belongs to a different model:\n  " + "\n  ".join([*lines[:10], *more]))


def state_name(key: str, name: str) -> str:
    """The name of a parameter's optimizer state in a file, such as `exp_avg/lm_head.weight`."""
    return f"{key}/{name}"
