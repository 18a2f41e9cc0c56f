"""What a checkpoint's folder says of itself: where the training stood, what its files are, and whether they still are.

The manifest is written last, so a folder without one is half a checkpoint. Torch is not imported: tables, forks and the
choice of a checkpoint need none.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from shardtune.errors import CheckpointError
from shardtune.trainer.checkpoint.train_state import TrainState

MANIFEST, LATEST = "manifest.json", "latest"
FORMAT, FORMAT_WITH_BASE = 1, 2
"""Goes up when older code could not read what newer code writes. The second is of checkpoints that are not all of the
model, but what belongs to a base model."""
WEIGHTS, OPTIMIZER = "weights", "optimizer"
"""The two kinds of files, `weights-00000-of-00002.safetensors`: an export reads the first alone."""
PACKAGES = ("shardtune", "torch", "deepspeed", "transformers", "tokenizers", "safetensors")
CHUNK = 16 * 2**20


class UnknownFormatError(CheckpointError):
    """Written by a newer shardtune: not damaged, and not to be passed over."""


@dataclass(frozen=True)
class FileRecord:
    """A file as it was written."""

    num_bytes: int
    xxh3_128: str
    """Against accidents: 27 GB/s of one core here, where sha256 does 1.8 and blake2b 0.9. It keeps no attacker out."""


@dataclass(frozen=True)
class Manifest:
    """One checkpoint, without its tensors.

    Random numbers are not among this: dropout's follow from (seed, step, rank), the rows' order from (seed, epoch,
    step), and nothing else is drawn while training.
    """

    state: TrainState
    recipe_hash: str
    """Of what is learned (shardtune/recipe/load.py)."""
    layout: Mapping[str, Any]
    """world_size, zero_stage, precision: for people; any other can go on from it."""
    best_metric: str
    """The dev metric that state.best_value is of."""
    dev_metrics: Mapping[str, Any] | None
    """The evaluation on dev at this very step."""
    shapes: Mapping[str, Sequence[int]]
    """Of the parameters and persistent buffers that it keeps, whole, by name: all of the model's, or with a base those
    that are trained."""
    optimizer_keys: Sequence[str]
    """The optimizer's states of each element, such as exp_avg."""
    optimizer_scalars: Mapping[str, Mapping[str, float | int]]
    """Its other states, by parameter; a parameter that has none of either kind is left out."""
    loss_scale: Mapping[str, float]
    base: Mapping[str, Any] | None = None
    """The pretrained model whose weights are not kept, since they are not trained
    (trainer/checkpoint/base_model.py)."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    written_at: float = 0.0
    """Seconds since the epoch."""

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def num_bytes(self) -> int:
        return sum(its.num_bytes for its in self.files.values())

    def with_files(self, files: Mapping[str, FileRecord]) -> "Manifest":
        """The same of these files."""
        return replace(self, files=files)

    def metric(self, name: str) -> float | None:
        """A dev metric; None if dev was not evaluated at this step, or it came out as no number."""
        value = (self.dev_metrics or {}).get(name)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its manifest is whole, and its files have the sizes that it says."""

    path: Path

    @cached_property
    def manifest(self) -> Manifest:
        return parse_manifest((self.path / MANIFEST).read_text(encoding="utf-8"), self.path / MANIFEST)

    @property
    def step(self) -> int:
        return step_of(self.path)

    def files(self, kind: str) -> list[Path]:
        """Its files of one kind, WEIGHTS or OPTIMIZER."""
        return [self.path / name for name in sorted(self.manifest.files) if name.startswith(f"{kind}-")]


def render_manifest(manifest: Manifest) -> str:
    """As JSON, with a checksum over itself."""
    content = asdict(manifest)
    its_format = FORMAT_WITH_BASE
    if manifest.base is None:
        del content["base"]
        its_format = FORMAT
    return json.dumps({"format": its_format, "xxh3_128": _digest(content), "checkpoint": content}, indent=1)


def parse_manifest(text: str, path: Path) -> Manifest:
    """Raises CheckpointError if it is not as it was written."""
    try:
        whole = json.loads(text)
        said, content, its_format = whole["xxh3_128"], whole["checkpoint"], whole["format"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path.name} is damaged: it is no manifest") from None
    if its_format not in (FORMAT, FORMAT_WITH_BASE):
        raise UnknownFormatError(
            f"{path}: this shardtune reads formats up to {FORMAT_WITH_BASE}, not {its_format}; use the one it is of"
        )
    if said != _digest(content):
        raise CheckpointError(f"{path.name} is damaged: its checksum differs")
    files = {name: FileRecord(**record) for name, record in content.pop("files").items()}
    state: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content.pop("state").items()
    }
    return Manifest(state=TrainState(**state), files=files, **content)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, its sizes looked at but not its bytes. Raises CheckpointError with what is wrong."""
    checkpoint = Checkpoint(path)
    try:
        records = checkpoint.manifest.files
        for name, record in records.items():
            found = (path / name).stat().st_size
            if found != record.num_bytes:
                raise CheckpointError(f"{name} is damaged: {found:,} bytes, not {record.num_bytes:,}")
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise CheckpointError("it was never finished" if name == MANIFEST else f"{name} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"it cannot be read: {error}") from None
    return checkpoint


def damage(checkpoint: Checkpoint, names: Iterable[str]) -> str | None:
    """What is wrong with the bytes of these files; None if they are as they were written."""
    for name in names:
        try:
            if record_file(checkpoint.path / name) != checkpoint.manifest.files[name]:
                return f"{name} is damaged: its checksum differs"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def record_file(path: Path) -> FileRecord:
    """The file as it is now. Raises OSError."""
    digest, num_bytes = xxhash.xxh3_128(), 0
    with path.open("rb", buffering=0) as file:
        chunk = memoryview(bytearray(CHUNK))
        while read := file.readinto(chunk):
            digest.update(chunk[:read])
            num_bytes += read
    return FileRecord(num_bytes, digest.hexdigest())


def checkpoint_folders(folder: Path) -> list[Path]:
    """The folders step-N in it, whatever they hold, oldest first."""
    return sorted((path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)), key=step_of)


def step_of(path: Path) -> int:
    """The number in a checkpoint's name."""
    return int(path.name.removeprefix("step-"))


def complete_checkpoints(folder: Path) -> list[Checkpoint]:
    """Those in it that are complete, by their sizes; oldest first."""
    found = []
    for path in checkpoint_folders(folder):
        try:
            found.append(open_checkpoint(path))
        except CheckpointError:
            continue  # whoever resumes or lists says what is wrong with it
    return found


def best_first(checkpoints: Iterable[Checkpoint], metric: str, *, lower_is_better: bool) -> list[Checkpoint]:
    """Those whose step was evaluated on dev, the best one first; of equals the earlier."""
    sign = 1 if lower_is_better else -1
    valued = [(value, its) for its in checkpoints if (value := its.manifest.metric(metric)) is not None]
    return [its for value, its in sorted(valued, key=lambda pair: (sign * pair[0], pair[1].step))]


def installed_versions() -> dict[str, str]:
    """Of what can change a number in the last digits."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # run from a source tree
    return found


def _digest(content: Any) -> str:
    return str(xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest())
