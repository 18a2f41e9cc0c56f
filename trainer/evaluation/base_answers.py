"""What the pretrained model makes of the targets of a split, for evaluations of a model that was trained from it.

It is asked again each time where it is at hand. Otherwise its last hidden states are stored before the first step:
with its last layer they give its logits exactly, and take a hundredth of their room in a usual vocabulary. A file holds
those of the examples that one rank evaluates; ranks read any file that is there.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shardtune.errors import DataError
from shardtune.run_dir.files import published, write_atomically
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import numbered_batches, numbers_of_rank
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.background import run_on_every_rank
from shardtune.trainer.distributed.watchdog import beat
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.objective.reference import Reference
from shardtune.trainer.model.divergence import BaseTargets
from shardtune.trainer.model.target_loss import plain_layer
from shardtune.trainer.tasks.batch import Batch

FORMAT = 1
"""Incremented whenever the files would be written differently."""
LAYER, INDEX, STATES = "last_layer.safetensors", ".json", ".states"
DISK_RESERVE = 10**8
"""Bytes that stay free on the disk."""

Numbers = NDArray[np.int64]


class BaseAnswers(Protocol):
    """The pretrained model, as an evaluation needs it."""

    def added(self, batches: Iterable[tuple[Numbers, Batch]]) -> Iterator[Batch]:
        """Collective: the batches of numbered_batches, each with what the pretrained model computes for its targets."""


@dataclass(frozen=True)
class Asked:
    """A pretrained model that is asked in each evaluation."""

    reference: Reference

    def added(self, batches: Iterable[tuple[Numbers, Batch]]) -> Iterator[Batch]:
        for _, batch in batches:
            yield batch.with_base(self.reference.targets(batch))


@dataclass(frozen=True)
class _File:
    """The hidden states of some examples, one behind another."""

    path: Path
    dtype: torch.dtype
    width: int
    ends: dict[int, tuple[int, int]]
    """Number of an example -> its first target in the file, and that behind its last."""

    @cached_property
    def _values(self) -> Tensor:
        size = self.path.stat().st_size // self.dtype.itemsize
        return torch.from_file(str(self.path), shared=False, size=size, dtype=self.dtype).view(-1, self.width)

    def of(self, example: int) -> Tensor:
        """Shape (targets, width)."""
        return self._values[slice(*self.ends[example])]


class Stored:
    """The files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        files = [file for path in sorted(folder.glob(f"*{INDEX}")) if (file := _read_index(path)) is not None]
        self._file_of = {example: file for file in files for example in file.ends}

    def has(self, numbers: Numbers) -> bool:
        """Whether all that an evaluation of these examples needs is here and whole."""
        try:
            self._layer()
        except (OSError, SafetensorError, KeyError):
            return False
        return all(number in self._file_of for number in numbers.tolist())

    def added(self, batches: Iterable[tuple[Numbers, Batch]]) -> Iterator[Batch]:
        layer: dict[str, Tensor] | None = None
        for numbers, batch in batches:
            device = batch.labels.device
            if layer is None:
                layer = {name: values.to(device) for name, values in self._layer().items()}
            weight = layer["weight"]
            parts = [self._file_of[number].of(number) for number in numbers.tolist()]
            hidden = torch.cat([torch.empty(0, weight.shape[1], dtype=weight.dtype), *parts])
            if len(hidden) != len(batch.positions):
                raise DataError(
                    f"{self._folder} does not belong to these data; delete it, and run again to write it anew"
                )
            yield batch.with_base(BaseTargets(hidden.to(device), weight, layer.get("bias")))

    def _layer(self) -> dict[str, Tensor]:
        return load_file(self._folder / LAYER)


def stored(engine: Engine, model: Any, split: Split, batch_maker: BatchMaker, folder: Path) -> Stored:
    """Collective: what the model, as it is now, makes of this split; written unless the folder has it.

    The folder's name has to tell all that it depends on. Raises DataError if the disk has no room for it.
    """
    found, needed = Stored(folder), numbers_of_rank(split, batch_maker)
    if batch_maker.ranks.any(not found.has(needed)):
        _write(engine, model, split, batch_maker, folder)
        found = Stored(folder)
    return found


def stored_bytes(num_targets: float, layer: tuple[int, int], bytes_of_number: int) -> tuple[int, int]:
    """Bytes of the hidden states at so many targets, and of a last layer of this shape (vocabulary, hidden size)."""
    vocabulary, hidden = layer
    return round(num_targets) * hidden * bytes_of_number, vocabulary * hidden * bytes_of_number


def _write(engine: Engine, model: Any, split: Split, batch_maker: BatchMaker, folder: Path) -> None:
    """Collective: writes the last layer, once on each machine, and the states of each rank's examples."""
    ranks, layer = batch_maker.ranks, plain_layer(model.get_output_embeddings())
    with engine.gathered(layer):
        values = {name: value.detach().cpu().contiguous() for name, value in layer.named_parameters(recurse=False)}
    shape = (layer.out_features, layer.in_features)
    needed = sum(stored_bytes(float(split.num_targets.sum()), shape, values["weight"].itemsize))
    run_on_every_rank(ranks, lambda: _make_room(folder, needed))
    run_on_every_rank(ranks, lambda: _save_layer(folder, values) if ranks.local_rank == 0 else None)
    name = f"{ranks.rank:05}-of-{ranks.world_size:05}"
    draft = _Draft()
    with published(folder / f"{name}{STATES}") as path:
        with (
            path.open("wb") as file,
            engine.evaluating(),
            closing(prefetch(numbered_batches(split, batch_maker))) as ahead,
        ):
            for numbers, batch in (entry.item for entry in ahead):
                beat()
                draft.add(file, numbers, batch, engine.forward(batch.with_hidden_of_targets()).logits)
        run_on_every_rank(ranks, lambda: draft.refuse_if_failed(folder))
    index = {**draft.index, "width": shape[1], "dtype": str(values["weight"].dtype).removeprefix("torch.")}
    write_atomically(folder / f"{name}{INDEX}", json.dumps(index))
    ranks.barrier()


class _Draft:
    """What is known of a file of states while it is written. Its index has the examples and the targets of each."""

    def __init__(self) -> None:
        self.index: dict[str, Any] = {"examples": [], "counts": []}
        self._failure: OSError | None = None

    def add(self, file: BinaryIO, numbers: Numbers, batch: Batch, hidden: Tensor) -> None:
        """Adds the states of a batch, of shape (targets, hidden size). After an error it does nothing: passes need all
        ranks, so the others have to come to their end too."""
        if self._failure is not None or not len(numbers):
            return
        self.index["examples"] += numbers.tolist()
        self.index["counts"] += [int(count) for count in batch.sum_by_row(hidden.new_ones(len(hidden))).tolist()]
        try:
            file.write(hidden.cpu().contiguous().view(torch.uint8).numpy().data)
        except OSError as error:
            self._failure = error

    def refuse_if_failed(self, folder: Path) -> None:
        if self._failure is not None:
            raise DataError(f"retention.kl_to_base: {folder} cannot be written ({self._failure.strerror}); {_CURE}")


_CURE = "set data.cache_dir to a disk with room, give fewer rows in data.dev, or remove retention.kl_to_base"


def _make_room(folder: Path, needed: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DataError(f"retention.kl_to_base: {folder} cannot be made ({error.strerror}); {_CURE}") from error
    if free < needed + DISK_RESERVE:
        raise DataError(
            f"retention.kl_to_base: {folder} has {free / 1e9:.2f} GB free; the pretrained model's hidden states on dev "
            f"and its last layer need {needed / 1e9:.2f} GB; {_CURE}"
        )


def _save_layer(folder: Path, values: dict[str, Tensor]) -> None:
    try:
        with published(folder / LAYER) as path:
            save_file(values, path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"retention.kl_to_base: {folder} cannot be written ({error}); {_CURE}") from error


def _read_index(path: Path) -> _File | None:
    """The file of states of an index; None if one of them is damaged or missing."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        last = list(accumulate(index["counts"]))
        places = zip([0, *last[:-1]], last, strict=True) if last else ()
        ends = dict(zip(index["examples"], places, strict=True))
        file = _File(path.with_suffix(STATES), getattr(torch, index["dtype"]), index["width"], ends)
        is_whole = file.path.stat().st_size == (last or [0])[-1] * file.width * file.dtype.itemsize
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return file if is_whole else None
