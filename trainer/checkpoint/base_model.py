"""Which pretrained model adapters belong to, as digests of its files: theirs are the only weights that a run with
model.lora does not keep.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shardtune.errors import CheckpointError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.checkpoint.manifest import record_file
from shardtune.trainer.distributed.background import run_on_every_rank
from shardtune.trainer.distributed.ranks import Ranks

BASE = "base_model.json"
"""In an exported folder of adapters: the base that they belong to."""
INDEXES = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""Where transformers looks for weights, in this order: one file, or an index of several."""

Base = Mapping[str, Any]
"""`path` as the recipe says it, `revision` (the commit of a hub id), and `files`: of each, num_bytes and xxh3_128."""


def identify(recipe: Recipe) -> Base:
    """The base that model.path names now; reads all of it. Raises CheckpointError if it is not there."""
    paths = _files(recipe)
    return _described(recipe, paths, {path.name: _record(path) for path in paths})


def identify_together(recipe: Recipe, ranks: Ranks) -> Base:
    """Collective: the same, of which each rank reads a share."""

    def read_share() -> Base:
        paths = _files(recipe)
        return _described(recipe, paths, {path.name: _record(path) for path in paths[ranks.rank :: ranks.world_size]})

    shares = run_on_every_rank(ranks, read_share)
    return {**shares[0], "files": {name: its for share in shares for name, its in share["files"].items()}}


def refuse_another_base(theirs: Base | None, ours: Base | None, where: Path) -> None:
    """Raises CheckpointError unless what lies at `where` belongs to the base that there is now.

    Either is None where the whole model is trained.
    """
    if (theirs is None) != (ours is None):
        has, lacks = ("the whole model", "adapters") if theirs is None else ("adapters", "the whole model")
        raise CheckpointError(f"{where} holds {has}, but the recipe trains {lacks} (model.lora); begin a new run")
    if theirs is None or ours is None or theirs["files"] == ours["files"]:
        return
    before, now = theirs["files"], ours["files"]
    changed = sorted(name for name in {**before, **now} if before.get(name) != now.get(name))
    raise CheckpointError(
        f"{where}: its adapters belong to another base model than {ours['path']} is now ({', '.join(changed[:5])} "
        f"{'differs' if len(changed) == 1 else 'differ'}): added to other weights they mean nothing. Put the model "
        f"back as it was{_revision(theirs)}, or begin a new run"
    )


def keep_base(folder: Path, base: Base) -> None:
    """Writes it down beside adapters."""
    (folder / BASE).write_text(json.dumps(base, indent=1), encoding="utf-8")


def read_base(folder: Path) -> Base:
    """What keep_base wrote. Raises CheckpointError if it is not there, or no such thing."""
    try:
        base: Base = json.loads((folder / BASE).read_text(encoding="utf-8"))
        return {key: base[key] for key in ("path", "revision", "files")}
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder / BASE} is missing or damaged; export the checkpoint anew") from None


def _described(recipe: Recipe, paths: Sequence[Path], files: Mapping[str, Any]) -> Base:
    is_local = Path(recipe.model.path).is_dir()
    # In the hub's cache a file lies in a folder that is called as its commit.
    return {"path": recipe.model.path, "revision": None if is_local else paths[0].parent.name, "files": files}


def _record(path: Path) -> dict[str, Any]:
    try:
        return asdict(record_file(path))
    except OSError as error:
        raise CheckpointError(f"model.path: {path} cannot be read: {error.strerror}") from None


def _revision(base: Base) -> str:
    return f" (model.revision={base['revision']})" if base["revision"] else ""


def _files(recipe: Recipe) -> Sequence[Path]:
    """The config and the weights, as from_pretrained finds them; of a hub id, in the cache."""
    found = list(_existing(recipe, "config.json"))
    for single, index in INDEXES:
        if paths := list(_existing(recipe, single)):
            return [*found, *paths]
        for path in _existing(recipe, index):
            names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            return [*found, *(one for name in names for one in _existing(recipe, name))]
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
