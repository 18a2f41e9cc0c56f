"""The run whose export is trained on, and its held-out rows: what the model could do before.

Its prepared data are used as they are if they are still there, so that the first evaluation repeats its own.
"""

import re
from pathlib import Path

from shardtune.errors import DataError, ShardtuneError
from shardtune.home import expand_home
from shardtune.recipe.retention import RetentionSet
from shardtune.recipe.schema import Recipe
from shardtune.rows.source_config import SourceConfig
from shardtune.rows.source_files import is_dataset
from shardtune.run_dir.files import CONFIG, DATA, EXPORT
from shardtune.run_dir.run import read_config
from shardtune.trainer.data.prepare.identity import FORMAT
from shardtune.trainer.data.prepare.prepare import Prepared
from shardtune.trainer.model.load import EVALUATION
from shardtune.trainer.model.pretrained import load_tokenizer
from shardtune.trainer.retention.heads import Answerer, Trained, labels_for, recipe_for, settle
from shardtune.trainer.retention.sets import Get, HeldOut, Say, prepare_set
from shardtune.trainer.tasks import TASKS, task_of


def earlier_set(recipe: Recipe, trained: Trained, get: Get, say: Say) -> tuple[HeldOut | None, str | None]:
    """The held-out rows of the run whose export model.path is, and a notice that says so, or why there are none.

    (None, None) if the recipe names a set like that run. Raises NotPreparedError
    as prepare_set does.
    """
    folder = Path(recipe.model.path)
    run_dir = run_of(folder)
    if run_dir is None:
        return None, _notice_without_run(folder)
    if run_dir.name in recipe.retention.sets:
        return None, None
    try:
        found, what = _earlier_set(run_dir, trained, get, say)
    except ShardtuneError as error:
        reason = str(error).splitlines()[0]
        return None, f"what {folder} could do before is not evaluated: {run_dir}: {reason} (retention.sequential)"
    return found, (
        f"model.path is of the run {run_dir.name}: its {what} rows ({len(found.split):,} examples) are a retention "
        "set (retention.sequential)"
    )


def is_export(folder: Path) -> bool:
    """Whether the folder holds a model that a run has exported."""
    return run_of(folder) is not None or (folder / EVALUATION).is_file()


def run_of(folder: Path) -> Path | None:
    """The directory of the run that has exported the model in this folder; None if it does not lie in one."""
    run_dir = folder.parent.parent
    return run_dir if folder.parent.name == EXPORT and (run_dir / CONFIG).is_file() else None


def _notice_without_run(folder: Path) -> str:
    """What to say of an export that does not lie in a run directory."""
    return (
        f"{folder} is the export of a run, but does not lie in its run directory, so the rows of that run are not "
        "known: what it could do before is not evaluated (retention.sets names rows)"
    )


def _earlier_set(run_dir: Path, trained: Trained, get: Get, say: Say) -> tuple[HeldOut, str]:
    """The held-out rows of a run, and the name of their split. Raises ShardtuneError if they cannot be had."""
    recipe = read_config(run_dir)
    split = next((name for name in ("dev", "test") if getattr(recipe.data, name) is not None), None)
    if split is None:
        raise DataError("its recipe names neither dev nor test rows")
    prepared = _prepared_by(run_dir, recipe)
    if prepared is not None and prepared.split(split) is not None:
        return _as_prepared(run_dir, recipe, prepared, split, trained), split
    if recipe.data.share(split) is not None:
        raise DataError(
            f"its {split} rows are a share of its training rows, and its prepared data are no longer in "
            f"{recipe.data.cache_dir}; `shardtune prepare` makes them again"
        )
    rows = RetentionSet(
        task=recipe.task,
        data=tuple(_of_split(source, split) for source in recipe.data.sources(split)),
        columns=recipe.data.columns,
        max_tokens=recipe.data.max_tokens,
    )
    found = prepare_set(trained, run_dir.name, rows, get, say)
    return HeldOut(found.name, found.recipe, found.prepared, found.split_name, found.head, is_automatic=True), split


def _of_split(source: SourceConfig, split: str) -> SourceConfig:
    """The source with the split that it stands for as dev or test rows."""
    if source.split is not None or not is_dataset(source.path):
        return source
    return source.model_copy(update={"split": {"dev": "validation"}.get(split, split)})


def _prepared_by(run_dir: Path, recipe: Recipe) -> Prepared | None:
    """The data that the run was trained on, if they are still in the cache as they are written now."""
    path = run_dir / DATA
    name = path.read_text(encoding="utf-8").partition("\n")[0] if path.is_file() else ""
    if not re.fullmatch(r"[0-9a-f]{16}", name):
        return None
    prepared = Prepared(expand_home(recipe.data.cache_dir) / name)
    return prepared if prepared.exists and prepared.meta["format"] == FORMAT else None


def _as_prepared(run_dir: Path, recipe: Recipe, prepared: Prepared, split: str, trained: Trained) -> HeldOut:
    """The rows as the run itself has evaluated them. Raises DataError if nobody can answer them."""
    base = trained.recipe.model.path
    own = recipe_for(recipe.model_copy(update={"model": trained.recipe.model}), base)
    labels = TASKS[recipe.task.kind].head_labels(prepared.facts) if recipe.task.has_labels else None
    is_own = labels is not None and trained.has_head_for(recipe.task) and labels == trained.labels
    if is_own and trained.recipe.model.head != "new":
        return HeldOut(run_dir.name, own, prepared, split, None, is_automatic=True)
    if labels is not None and labels_for(recipe.task, trained.config) is None:
        raise DataError(f"{base} has no head for {recipe.task.kind}")
    task = task_of(own, prepared.facts, load_tokenizer(own), trained.config)
    head = settle(trained, Answerer(base, recipe.task, labels), task, is_named=False)
    return HeldOut(run_dir.name, own, prepared, split, head, is_automatic=True)
