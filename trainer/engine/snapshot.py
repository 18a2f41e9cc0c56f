"""The tensors of a checkpoint as files: each rank writes the elements that it holds, any rank reads what it needs.

safetensors only: numbers and names, nothing that is executed when it is read. A tensor of the model is identified by
its name and flattened; a file holds contiguous parts of such tensors, and where each begins. So a checkpoint has no
layout of its own: it can be read with any number of ranks, ZeRO stage and precision.
"""

import json
import os
from bisect import bisect_right, insort
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
from shardtune.trainer.distributed.ranks import Ranks
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


@dataclass(frozen=True)
class Read:
    """Elements of a saved tensor that are to be read."""

    name: str
    start: int
    into: Tensor
    """All of it is overwritten; shape (elements,)."""


Part = tuple[int, int, int]
"""Elements of a tensor in a file: the first one, how many, and the number of the file."""


class SavedTensors:
    """The tensors of several files, by name, as if each tensor were whole."""

    def __init__(self, paths: Sequence[Path], *, opens_all: bool = True) -> None:
        """Raises CheckpointError if a file cannot be read. Without `opens_all`, only read_together may be called."""
        self._paths = list(paths)
        self._files: dict[int, Any] = {}
        self._parts: dict[str, list[Part]] = {}
        for number in range(len(paths) if opens_all else 0):
            self._add(self._parts_in(number))

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which the tensor of this name was saved."""
        part: Tensor = self._open(self._parts[name][0][2]).get_slice(name)[:1]
        return part.dtype

    def read_together(self, reads: Sequence[Read], ranks: Ranks) -> None:
        """Collective: each rank reads what it needs, out of the files that hold it. Raises the same as `read`."""
        self.find_together(reads, ranks)
        for read in reads:
            self.read(read.name, read.start, read.into)

    def find_together(self, reads: Sequence[Read], ranks: Ranks) -> None:
        """Collective: finds the files that hold what each rank is to read.

        If there are as many files as ranks, that is the file that the rank itself has written, and no other is opened.
        Otherwise each rank opens a share of the files, and all tell each other what is in them.
        """
        if len(self._paths) == ranks.world_size:
            self._add(self._parts_in(ranks.rank))
        is_enough = not ranks.any(not all(self._has(read) for read in reads))
        if not is_enough:
            needed = {read.name for read in reads}
            found = [self._parts_in(number) for number in ranks.share(range(len(self._paths)))]
            self._parts = {}
            for of_rank in ranks.gather(found):
                for parts in of_rank:
                    self._add({name: part for name, part in parts.items() if name in needed})

    def _has(self, read: Read) -> bool:
        """Whether the elements are in files whose content is known."""
        done = read.start
        for begin, numel, _ in self._parts.get(read.name, ()):
            if begin <= done:
                done = max(done, begin + numel)
        return done >= read.start + read.into.numel()

    def _add(self, parts: Mapping[str, Part]) -> None:
        for name, part in parts.items():
            insort(self._parts.setdefault(name, []), part)

    def _parts_in(self, number: int) -> dict[str, Part]:
        """What is in a file, by the names of the tensors."""
        file = self._open(number)
        starts = json.loads(file.metadata()[STARTS])
        return {name: (starts[name], file.get_slice(name).get_shape()[0], number) for name in file.keys()}  # noqa: SIM118  it is not a dict

    def _open(self, number: int) -> Any:
        if (file := self._files.get(number)) is None:
            path = self._paths[number]
            try:
                # pread: a truncated file is then an error; mapped, it would be a SIGBUS.
                file = self._files[number] = safe_open(path, framework="pt", backend="pread")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from error
        return file

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
                values = self._open(number).get_slice(name)[first - begin : first - begin + take]
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
    """The optimizer's other states of each parameter that has states of either kind, and begins in this part."""
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
