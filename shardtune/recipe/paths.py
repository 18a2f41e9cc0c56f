"""The paths in a recipe: which are missing, and all of them made absolute."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from shardtune.home import expand_home, home_fault
from shardtune.recipe.explain import Fault, did_you_mean, shown
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.data import DataConfig
from shardtune.recipe.sections.regularize import RegularizeConfig
from shardtune.recipe.sections.retention import RetentionSet
from shardtune.recipe.strategies import AUTO, is_path, not_a_strategy, strategies
from shardtune.recipe.tasks import TASK_OPTIONS
from shardtune.recipe.yaml_lines import KeyPath
from shardtune.rows.formats import FORMATS
from shardtune.rows.input_file import ReadOptions
from shardtune.rows.readers.parallel_text import sides_of
from shardtune.rows.source_config import SourceConfig, listed
from shardtune.rows.source_files import HUB, FindError, escaped, find_source, is_glob, is_hub, is_saved_dataset

_SPLITS = ("train", "dev", "test")


def path_faults(values: Mapping[str, Any], folder: Path) -> list[Fault]:
    """A fault for each local file or folder in the values that does not exist, and for each `~` without a home;
    relative paths start from `folder`."""
    faults = []
    data, model, engine, job = (_section(values, name) for name in ("data", "model", "engine", "job"))
    for split in _SPLITS:
        for key_path, source in _sources_in(data.get(split)):
            if missing := _no_rows(source["path"], folder, _options(source, _section(values, "task"))):
                faults.append(Fault(("data", split, *key_path), missing))
    ewc = _section(_section(values, "regularize"), "ewc")
    for key_path, source in _sources_in(ewc.get("data")):
        if missing := _no_rows(source["path"], folder, _options(source, _section(values, "task"))):
            faults.append(Fault(("regularize", "ewc", "data", *key_path), missing))
    cache = data.get("cache_dir", DataConfig.model_fields["cache_dir"].default)
    if isinstance(cache, str) and (unknown := _unknown_home(cache, folder)):
        faults.append(Fault(("data", "cache_dir"), unknown))
    faults += _model_faults(("model", "path"), model.get("path"), folder)
    ds_config = engine.get("deepspeed")
    if isinstance(ds_config, str):
        if not is_path(ds_config):
            if ds_config not in (AUTO, *strategies()):
                faults.append(Fault(("engine", "deepspeed"), not_a_strategy(ds_config)))
        elif missing := _missing(ds_config, folder, "file"):
            faults.append(Fault(("engine", "deepspeed"), missing))
    faults += _retention_faults(_section(values, "retention"), folder)
    preamble = job.get("preamble")
    if isinstance(preamble, str) and (missing := _missing(preamble, folder, "file")):
        faults.append(Fault(("job", "preamble"), missing))
    return faults


def _model_faults(key_path: KeyPath, path: Any, folder: Path) -> list[Fault]:
    """The fault of a model folder that does not exist, or of a hub id for which there is no cache."""
    if not isinstance(path, str):
        return []
    fault = _missing(path, folder, "folder") if _is_local_model(path, folder) else _no_hub_cache()
    return [] if fault is None else [Fault(key_path, fault)]


def _retention_faults(retention: Mapping[str, Any], folder: Path) -> list[Fault]:
    """The faults of the paths in retention.sets."""
    faults = []
    sets = _section(retention, "sets")
    for name in sets:
        held_out, place = _section(sets, name), ("retention", "sets", name)
        for key_path, source in _sources_in(held_out.get("data")):
            if missing := _no_rows(source["path"], folder, _options(source, _section(held_out, "task"))):
                faults.append(Fault((*place, "data", *key_path), missing))
        faults += _model_faults((*place, "model"), held_out.get("model"), folder)
    return faults


def with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every local path made absolute; hub ids and strategy names stay as they are."""
    data = {split: _with_absolute_paths(getattr(recipe.data, split), folder) for split in _SPLITS}
    data["cache_dir"] = _absolute(recipe.data.cache_dir, folder)
    model, engine, job = recipe.model, recipe.engine, recipe.job
    if _is_local_model(model.path, folder):
        model = model.model_copy(update={"path": _absolute(model.path, folder)})
    if engine.deepspeed is not None and is_path(engine.deepspeed):
        engine = engine.model_copy(update={"deepspeed": _absolute(engine.deepspeed, folder)})
    if job.preamble is not None:
        job = job.model_copy(update={"preamble": _absolute(job.preamble, folder)})
    regularize = _with_ewc_data(recipe, lambda sources: _with_absolute_paths(sources, folder))
    sets = {name: _set_with_absolute_paths(held_out, folder) for name, held_out in recipe.retention.sets.items()}
    retention = recipe.retention.model_copy(update={"sets": sets})
    sections = {"model": model, "regularize": regularize, "engine": engine, "retention": retention, "job": job}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data), **sections})


def _set_with_absolute_paths(held_out: RetentionSet, folder: Path) -> RetentionSet:
    model = held_out.model
    if model is not None and _is_local_model(model, folder):
        model = _absolute(model, folder)
    return held_out.model_copy(update={"data": _with_absolute_paths(held_out.data, folder), "model": model})


def without_places(recipe: Recipe) -> Recipe:
    """The recipe without the places on this machine where its data and its model lie."""
    data = {split: _without_places(getattr(recipe.data, split)) for split in _SPLITS}
    path = Path(recipe.model.path)
    model = recipe.model.model_copy(update={"path": "" if path.is_absolute() else recipe.model.path})
    regularize = _with_ewc_data(recipe, _without_places)
    sections = {"data": recipe.data.model_copy(update=data), "model": model, "regularize": regularize}
    return recipe.model_copy(update=sections)


def _with_ewc_data(recipe: Recipe, change: Callable[[Any], Any]) -> RegularizeConfig:
    """The section with other sources of regularize.ewc, if it is set."""
    if (ewc := recipe.regularize.ewc) is None:
        return recipe.regularize
    return recipe.regularize.model_copy(update={"ewc": ewc.model_copy(update={"data": change(ewc.data)})})


def _without_places(value: Any) -> Any:
    if isinstance(value, str):
        return value if is_hub(value) else ""
    if isinstance(value, SourceConfig):
        return value.model_copy(update={"path": _without_places(value.path)})
    return tuple(map(_without_places, value)) if isinstance(value, tuple) else value


def local_folders(recipe: Recipe) -> list[Path]:
    """The folders on this machine that the ranks read or write, besides the run directory."""
    sources = [source for split in _SPLITS for source in recipe.data.sources(split)]
    if recipe.regularize.ewc is not None:
        sources += listed(recipe.regularize.ewc.data)
    held_out = recipe.retention.sets.values()
    sources += [source for one in held_out for source in one.sources]
    data = [source.path.removeprefix(HUB) for source in sources]
    models = [recipe.model.path, *(one.model for one in held_out if one.model is not None)]
    paths = [expand_home(path) for path in (recipe.data.cache_dir, *models, *data)]
    absolute = [path for path in paths if path.is_absolute()]
    # For a glob, or a cache that does not exist yet: the nearest folder above it that exists.
    return [next(folder for folder in (path, *path.parents) if folder.is_dir()) for path in absolute]


def _sources_in(value: Any) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """The sources of a split that have a path, each with the key path of that; the value need not be valid."""
    if isinstance(value, str):
        yield (), {"path": value}
    elif isinstance(value, dict) and isinstance(value.get("path"), str):
        yield ("path",), value
    elif isinstance(value, list):
        for at, item in enumerate(value):
            if not isinstance(item, list):
                yield from (((at, *key_path), source) for key_path, source in _sources_in(item))


def _options(source: Mapping[str, Any], task: Mapping[str, Any]) -> ReadOptions:
    """How the files of a source are found and told apart; neither it nor the task need be valid."""
    kind = task.get("kind")
    options = TASK_OPTIONS.get(kind) if isinstance(kind, str) else None
    named = source.get("format")
    return ReadOptions(
        format=named if isinstance(named, str) and named in FORMATS else None,
        text_files="text" if options is None else options.text_files,
    )


def _no_rows(path: str, folder: Path, options: ReadOptions) -> str | None:
    """What is wrong with a path that should provide rows, or None."""
    if unknown := _unknown_home(path.removeprefix(HUB), folder):
        return unknown
    absolute = _absolute_source(path, folder)
    if is_hub(path):
        return _no_hub_cache() if absolute == path else _missing(path.removeprefix(HUB), folder, "folder")
    try:
        if not (is_glob(path, folder) or sides_of(Path(absolute))) and _kind(Path(absolute)) not in ("file", "folder"):
            return _missing(path, folder, "file")
        if not is_saved_dataset(absolute):
            find_source(absolute, options)
    except FindError as error:
        return f"{shown(path)}: {error.what}" if str(error.where) == absolute else str(error)
    except OSError as error:
        return f"{shown(path)} cannot be read: {error.strerror}"
    return None


def _absolute_source(path: str, folder: Path) -> str:
    """The path made absolute; hub ids stay as they are. Special characters of the folder are escaped before a glob."""
    if is_hub(path):
        rest = path.removeprefix(HUB)
        return HUB + _absolute(rest, folder) if _is_local_model(rest, folder) else path
    absolute = _absolute(path, folder)
    is_relative = not path.startswith(("/", "~"))
    return f"{escaped(folder)}/{path}" if is_relative and is_glob(path, folder) else absolute


def _with_absolute_paths(value: Any, folder: Path) -> Any:
    """The sources of a split, as given in a recipe, with absolute paths."""
    if isinstance(value, str):
        return _absolute_source(value, folder)
    if isinstance(value, SourceConfig):
        return value.model_copy(update={"path": _absolute_source(value.path, folder)})
    # A share of the training rows has no path.
    return tuple(_with_absolute_paths(item, folder) for item in value) if isinstance(value, tuple) else value


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, dict) else {}


def _is_local_model(path: str, folder: Path) -> bool:
    """Whether the path is a folder and not a hub id. Hub ids have at most one slash; an existing folder wins over a hub
    id."""
    looks_local = path in (".", "..") or path.startswith(("./", "../", "/", "~")) or path.count("/") > 1
    return looks_local or _kind(Path(_absolute(path, folder))) == "folder"


def _absolute(path: str, folder: Path) -> str:
    if home_fault(path) is None:
        return str(folder / expand_home(path))
    return path if _unknown_home(path, folder) else str(folder / path)  # path_faults reports the unknown home


def _unknown_home(path: str, folder: Path) -> str | None:
    """Why the `~` of a path cannot be expanded, or None; a file that is called `~draft.jsonl` is just that."""
    is_name = not path.startswith("~/") and path != "~" and _kind(folder / path) is not None
    return None if is_name else home_fault(path)


def _no_hub_cache() -> str | None:
    """Why nothing can be downloaded from the hub, or None: huggingface_hub would make a folder called `~`."""
    if (unknown := home_fault("~/.cache/huggingface")) is None:
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    return f"{unknown.removesuffix('give an absolute path')}HF_HOME" if HF_HUB_CACHE.startswith("~") else None


def _missing(path: str, folder: Path, wanted: str) -> str | None:
    if unknown := _unknown_home(path, folder):
        return unknown
    absolute = Path(_absolute(path, folder))
    kind = _kind(absolute)
    if kind == wanted:
        return None
    if kind is not None:
        return f"expected a {wanted}, but {shown(path)} is a {kind}"
    if _kind(absolute.parent) != "folder":
        return f"no such {wanted}: {shown(path)}; its folder {shown(str(absolute.parent))} does not exist either"
    start = "" if Path(path).is_absolute() or path.startswith("~") else f" in {folder}"
    return f"no such {wanted}: {shown(path)}{start}{_near(absolute)}"


def _kind(path: Path) -> str | None:
    try:
        if path.is_symlink() and not path.exists():
            return f"link to {shown(str(path.readlink()))}, which does not exist"
        return "folder" if path.is_dir() else "file" if path.exists() else None
    except (OSError, ValueError):  # the name is too long, access is denied, or it is not a path
        return None


def _near(path: Path) -> str:
    try:
        return did_you_mean(path.name, sorted(entry.name for entry in path.parent.iterdir()), num=3)
    except (OSError, ValueError):
        return ""
