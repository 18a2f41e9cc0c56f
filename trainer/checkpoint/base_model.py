"""The base model of a run, identified by digests of its files.

A run with model.lora saves all weights but those of its base model, and its adapters work with no other one. A run that
trains all weights keeps the digests too, so that it can be blended with its base later (trainer/export/blend.py).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shardtune.errors import CheckpointError
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import write_atomically
from shardtune.trainer.checkpoint.manifest import record_file
from shardtune.trainer.distributed.background import run_on_every_rank, run_on_zero
from shardtune.trainer.distributed.ranks import Ranks

BASE = "base_model.json"
"""The file in a run directory, and in an exported folder of adapters, that identifies their base model."""
INDEXES = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""Where transformers looks for weights, in this order: a single file, or the index of several."""

Base = Mapping[str, Any]
"""`path` as in the recipe, `revision` (the commit of a hub id), and `files`: num_bytes and xxh3_128 of each file; of
adapters over a quantized base also `quantized`, its format and layers (trainer/model/quantized/loading.py)."""


def identify(recipe: Recipe) -> Base:
    """The base model that model.path names now. Reads all of its files; raises CheckpointError if it has none."""
    paths = _files(recipe)
    return _described(recipe, paths, {path.name: _record(path) for path in paths})


def identify_together(recipe: Recipe, ranks: Ranks) -> Base:
    """Collective: the same as identify, with the files distributed over the ranks; rank 0 finds them."""
    paths = run_on_zero(ranks, lambda: _files(recipe))
    own = paths[ranks.rank :: ranks.world_size]
    shares = run_on_every_rank(ranks, lambda: {path.name: _record(path) for path in own})
    files = {name: record for share in shares for name, record in share.items()}
    return _described(recipe, paths, {path.name: files[path.name] for path in paths})


def refuse_another_base(saved: Base | None, current: Base | None, where: Path) -> None:
    """Raises CheckpointError unless the checkpoint or export at `where` belongs to the current base model.

    `saved` and `current` are None where the whole model is trained.
    """
    if (saved is None) != (current is None):
        has, wants = ("the whole model", "adapters") if saved is None else ("adapters", "the whole model")
        raise CheckpointError(f"{where} holds {has}, but the recipe trains {wants} (model.lora); start a new run")
    if saved is None or current is None or saved["files"] == current["files"]:
        return
    raise CheckpointError(
        f"{where}: its adapters were trained on other base weights than {current['path']} has now "
        f"({changes(saved, current)}) and do not work with them. "
        f"Restore the base model{revision_of(saved)}, or start a new run"
    )


def refuse_another_anchor(run_dir: Path, current: Base) -> None:
    """Raises CheckpointError if the run began with other pretrained weights, near which `regularize` holds its own.

    A run that begins remembers them. For one rank."""
    if not (run_dir / BASE).is_file():
        write_atomically(run_dir / BASE, json.dumps(current, indent=1))
        return
    if differs := changes(read_base(run_dir), current):
        raise CheckpointError(
            f"{run_dir} holds its weights near those that {current['path']} had when it began (regularize), and "
            f"{differs} now. Restore the pretrained "
            "model, or use another --run-dir"
        )


def changes(saved: Base, current: Base) -> str:
    """Which files differ, as in `model.safetensors differs`; empty if none does."""
    before, now = saved["files"], current["files"]
    changed = sorted(name for name in {**before, **now} if before.get(name) != now.get(name))
    return f"{', '.join(changed[:5])} {'differs' if len(changed) == 1 else 'differ'}" if changed else ""


def keep_base(folder: Path, base: Base) -> None:
    """Writes BASE into a run directory, or a folder of adapters."""
    write_atomically(folder / BASE, json.dumps(base, indent=1))


def keep_base_once(recipe: Recipe, run_dir: Path, ranks: Ranks) -> None:
    """Collective: identifies the base model of a run that trains all weights, once, and keeps that in its directory.

    A model from scratch has none, and the checkpoints of adapters name theirs. Raises CheckpointError if the files of
    the base cannot be read.
    """
    if recipe.model.from_scratch or recipe.model.lora is not None or run_on_zero(ranks, (run_dir / BASE).exists):
        return
    base = identify_together(recipe, ranks)
    run_on_zero(ranks, lambda: keep_base(run_dir, base))


def read_base(folder: Path) -> Base:
    """The base model that keep_base recorded. Raises CheckpointError if the file is missing or damaged."""
    try:
        base: Base = json.loads((folder / BASE).read_text(encoding="utf-8"))
        kept = {key: base[key] for key in ("path", "revision", "files")}
        return kept | ({"quantized": base["quantized"]} if "quantized" in base else {})
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder / BASE} is missing or damaged; export the checkpoint again") from None


def _described(recipe: Recipe, paths: Sequence[Path], files: Mapping[str, Any]) -> Base:
    is_local = Path(recipe.model.path).is_dir()
    # In the hub's cache the folder of a file is named after its commit.
    return {"path": recipe.model.path, "revision": None if is_local else paths[0].parent.name, "files": files}


def _record(path: Path) -> dict[str, Any]:
    try:
        return asdict(record_file(path))
    except OSError as error:
        raise CheckpointError(f"model.path: {path} cannot be read: {error.strerror}") from None


def revision_of(base: Base) -> str:
    """` (model.revision=…)` for a base of the hub, else an empty string."""
    return f" (model.revision={base['revision']})" if base["revision"] else ""


def weight_files(recipe: Recipe) -> list[Path]:
    """The files with the weights that model.path names now. Raises CheckpointError if it has none."""
    return [path for path in _files(recipe) if path.name != "config.json"]


def _files(recipe: Recipe) -> Sequence[Path]:
    """The config and the weights that from_pretrained loads; those of a hub id are in the cache."""
    config = list(_existing(recipe, "config.json"))
    for single, index in INDEXES:
        if paths := list(_existing(recipe, single)):
            return [*config, *paths]
        for path in _existing(recipe, index):
            names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            return [*config, *(shard for name in names for shard in _existing(recipe, name))]
    raise CheckpointError(f"model.path: {recipe.model.path} has none of {', '.join(name for name, _ in INDEXES)}")


def _existing(recipe: Recipe, name: str) -> Iterator[Path]:
    import huggingface_hub

    folder = Path(recipe.model.path)
    if folder.is_dir():
        if (folder / name).is_file():
            yield folder / name
        return
    path = huggingface_hub.try_to_load_from_cache(recipe.model.path, name, revision=recipe.model.revision)
    if isinstance(path, str):
        yield Path(path)
