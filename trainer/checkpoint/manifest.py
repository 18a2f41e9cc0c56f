"""The manifest of a checkpoint: the state of the training, and the sizes and checksums of the checkpoint's files.

The manifest is written last, so a folder without one is an unfinished checkpoint. Torch is not imported: listing,
forking and choosing checkpoints work without it.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from shardtune.errors import CheckpointError
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.engine.states.names import RAW

MANIFEST, LATEST = "manifest.json", "latest"
FORMAT, FORMAT_WITH_BASE, FORMAT_WITH_AVERAGE = 1, 2, 3
"""The number goes up when older code could not read what newer code writes. FORMAT_WITH_BASE is for checkpoints that
hold only what was trained on top of a base model, FORMAT_WITH_AVERAGE for those whose weights are an average of what
was trained."""
WEIGHTS, OPTIMIZER = "weights", "optimizer"
"""The two kinds of files, such as `weights-00000-of-00002.safetensors`; an export reads the weights alone."""
PACKAGES = ("shardtune", "torch", "deepspeed", "transformers", "tokenizers", "safetensors")
CHUNK = 16 * 2**20


class UnknownFormatError(CheckpointError):
    """The checkpoint was written by a newer shardtune: it is not damaged, and must not be skipped."""


@dataclass(frozen=True)
class FileRecord:
    """Size and checksum of a file when it was written."""

    num_bytes: int
    xxh3_128: str
    """A checksum against accidents, not against attackers: 27 GB/s on one core here; sha256 has 1.8, blake2b 0.9."""


@dataclass(frozen=True)
class Manifest:
    """A checkpoint without its tensors.

    It has no random state: dropout follows from (seed, step, rank), the order of the rows from (seed, epoch, step), and
    nothing else is drawn while training.
    """

    state: TrainState
    recipe_hash: str
    """The digest of the keys that change what is learned (shardtune/recipe/load.py)."""
    layout: Mapping[str, Any]
    """world_size, zero_stage, precision: for information; a run with any other layout can resume from it."""
    best_metric: str
    """The dev metric whose value is state.best_value."""
    dev_metrics: Mapping[str, Any] | None
    """Metrics of the evaluation on dev at this step, or None."""
    shapes: Mapping[str, Sequence[int]]
    """Whole shapes of the saved parameters and persistent buffers, by name: all of the model, or with a base model
    those that are trained."""
    optimizer_keys: Sequence[str]
    """The optimizer's states with one value per element of a parameter, such as exp_avg."""
    optimizer_scalars: Mapping[str, Mapping[str, float | int]]
    """The optimizer's other states, by parameter; parameters without optimizer state are not listed."""
    loss_scale: Mapping[str, float]
    base: Mapping[str, Any] | None = None
    """The base model, whose weights are neither trained nor saved (trainer/checkpoint/base_model.py)."""
    retention: Mapping[str, Any] | None = None
    """Of the evaluation at this step: `metrics` of each retention set, and the `excess` over retention.max_drop; None
    if there are no such sets, or they were not evaluated."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    written_at: float = 0.0
    """Seconds since the epoch."""

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def num_bytes(self) -> int:
        return sum(record.num_bytes for record in self.files.values())

    @property
    def is_evaluated(self) -> bool:
        """Whether dev or the retention sets were evaluated at this step."""
        return self.dev_metrics is not None or self.retention is not None

    @property
    def excess(self) -> float:
        """By how much the model exceeds retention.max_drop; 0 if it is within it."""
        return 0.0 if self.retention is None else float(self.retention["excess"])

    def with_files(self, files: Mapping[str, FileRecord]) -> "Manifest":
        """A copy of the manifest with these files."""
        return replace(self, files=files)

    def metric(self, name: str) -> float | None:
        """A dev metric; None if dev was not evaluated at this step, or gave no number to rank by."""
        return rankable(self.dev_metrics or {}, name)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its manifest is intact, and its files have the recorded sizes."""

    path: Path

    @cached_property
    def manifest(self) -> Manifest:
        return parse_manifest((self.path / MANIFEST).read_text(encoding="utf-8"), self.path / MANIFEST)

    @property
    def step(self) -> int:
        return step_of(self.path)

    def files(self, kind: str) -> list[Path]:
        """Paths of the files of one kind, WEIGHTS or OPTIMIZER."""
        return [self.path / name for name in sorted(self.manifest.files) if name.startswith(f"{kind}-")]


def render_manifest(manifest: Manifest) -> str:
    """The manifest as JSON with its own checksum."""
    content = asdict(manifest)
    format_ = FORMAT_WITH_BASE
    if manifest.retention is None:
        del content["retention"]
    if manifest.base is None:
        del content["base"]
        format_ = FORMAT
    if RAW in manifest.optimizer_keys:
        format_ = FORMAT_WITH_AVERAGE
    return json.dumps({"format": format_, "xxh3_128": _digest(content), "checkpoint": content}, indent=1)


def parse_manifest(text: str, path: Path) -> Manifest:
    """The manifest in the text of `path`. Raises CheckpointError if it is damaged or of an unknown format."""
    try:
        whole = json.loads(text)
        digest, content, format_ = whole["xxh3_128"], whole["checkpoint"], whole["format"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path.name} is damaged: it is not a manifest") from None
    if format_ not in (FORMAT, FORMAT_WITH_BASE, FORMAT_WITH_AVERAGE):
        raise UnknownFormatError(
            f"{path} has format {format_}; this shardtune reads formats up to {FORMAT_WITH_AVERAGE}. Use the version "
            "of shardtune that wrote it, or a newer one"
        )
    if digest != _digest(content):
        raise CheckpointError(f"{path.name} is damaged: its checksum differs")
    files = {name: FileRecord(**record) for name, record in content.pop("files").items()}
    if outside := [name for name in files if Path(name).name != name or name == ".."]:
        raise CheckpointError(f"{path.name} is damaged: {outside[0]!r} is not the name of a file in its folder")
    state: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content.pop("state").items()
    }
    return Manifest(state=TrainState(**state), files=files, **content)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, with file sizes verified but not contents. Raises CheckpointError."""
    checkpoint = with_manifest(path)
    refuse_other_sizes(checkpoint, checkpoint.manifest.files)
    return checkpoint


def with_manifest(path: Path) -> Checkpoint:
    """The checkpoint in a folder with its manifest read, which goes along when it is sent to another process; its files
    are not looked at. Raises CheckpointError."""
    checkpoint = Checkpoint(path)
    with _as_checkpoint_error():
        assert checkpoint.manifest is not None
    return checkpoint


def refuse_other_sizes(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Raises CheckpointError unless these files have the sizes in the manifest."""
    with _as_checkpoint_error():
        for name in names:
            num_bytes, expected = (checkpoint.path / name).stat().st_size, checkpoint.manifest.files[name].num_bytes
            if num_bytes != expected:
                raise CheckpointError(f"{name} is damaged: {num_bytes:,} bytes, not {expected:,}")


@contextmanager
def _as_checkpoint_error() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise CheckpointError("it was never finished" if name == MANIFEST else f"{name} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot be read: {error}") from None


def damage(checkpoint: Checkpoint, names: Iterable[str]) -> str | None:
    """What is wrong with the contents of these files, or None if all checksums match."""
    for name in names:
        try:
            if record_file(checkpoint.path / name) != checkpoint.manifest.files[name]:
                return f"{name} is damaged: its checksum differs"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def record_file(path: Path) -> FileRecord:
    """Size and checksum of the file as it is now. Raises OSError."""
    digest, num_bytes = xxhash.xxh3_128(), 0
    with path.open("rb", buffering=0) as file:
        chunk = memoryview(bytearray(CHUNK))
        while read := file.readinto(chunk):
            digest.update(chunk[:read])
            num_bytes += read
    return FileRecord(num_bytes, digest.hexdigest())


def checkpoint_folders(folder: Path) -> list[Path]:
    """The folders named step-N in `folder`, complete or not, oldest first."""
    return sorted((path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)), key=step_of)


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def complete_checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints in `folder` that are complete by their files' sizes, oldest first."""
    checkpoints = []
    for path in checkpoint_folders(folder):
        try:
            checkpoints.append(open_checkpoint(path))
        except CheckpointError:
            continue  # resuming and listing report what is wrong with it
    return checkpoints


def rankable(metrics: Mapping[str, Any], name: str) -> float | None:
    """The metric by which a model may become the best; None if it is not finite, or the loss is nan.

    A model that computes nan has a finite accuracy too: that of its first label.
    """
    value, loss = metrics.get(name), metrics.get("loss")
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return None if isinstance(loss, float) and math.isnan(loss) else float(value)


def best_first(checkpoints: Iterable[Checkpoint], metric: str, *, lower_is_better: bool) -> list[Checkpoint]:
    """The checkpoints evaluated on dev, best first; of equal ones the earlier first.

    Those within retention.max_drop come before all others, which follow by how much they exceed it.
    """
    sign = 1 if lower_is_better else -1
    valued = [
        (checkpoint.manifest.excess, sign * value, checkpoint.step, checkpoint)
        for checkpoint in checkpoints
        if (value := checkpoint.manifest.metric(metric)) is not None
    ]
    return [checkpoint for *_, checkpoint in sorted(valued, key=lambda ranked: ranked[:3])]


def installed_versions() -> dict[str, str]:
    """Versions of the packages that can change the last digits of a number."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue  # shardtune itself, run from a source tree
    return versions


def _digest(content: Any) -> str:
    return str(xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest())
