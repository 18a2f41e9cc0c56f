"""The runs whose exports a model has been trained on before, one after another, and their held-out rows.

Their prepared data are used as they are if they are still there, so that the first evaluation
of the latest repeats its own.
"""

import re
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from shardtune.errors import DataError, ShardtuneError
from shardtune.home import expand_home
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.retention import RetentionSet
from shardtune.rows.source_config import SourceConfig
from shardtune.rows.source_files import is_dataset
from shardtune.run_dir.files import CONFIG, DATA, EXPORT
from shardtune.run_dir.run import read_config
from shardtune.trainer.data.prepare.identity import FORMAT
from shardtune.trainer.data.prepare.prepare import Prepared
from shardtune.trainer.model.load import EVALUATION
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.retention.heads import Answerer, Trained, folder_of, labels_for, recipe_for, settle
from shardtune.trainer.retention.sets import Get, HeldOut, Say, prepare_set
from shardtune.trainer.tasks import TASKS, task_of


def earlier_sets(recipe: Recipe, trained: Trained, get: Get, say: Say) -> tuple[list[HeldOut], list[str]]:
    """The held-out rows of the run whose export model.path is, of the run whose export that one has trained on, and so
    on, the latest first; and for each a notice that says so, or why there are none.

    Nothing of a run after which the recipe names a set. Raises NotPreparedError as prepare_set does.
    """
    sets: list[HeldOut] = []
    notices: list[str] = []
    folder, seen = Path(recipe.model.path), set[Path]()
    while is_export(folder) and folder not in seen:
        seen.add(folder)
        run_dir = run_of(folder)
        if run_dir is None:
            notices.append(_notice_without_run(folder))
            break
        try:
            earlier = read_config(run_dir)
        except ShardtuneError as error:
            notices.append(_why_not(folder, run_dir, error))
            break
        if run_dir.name not in recipe.retention.sets:
            taken = [*recipe.retention.sets, *(held_out.name for held_out in sets)]
            name = _new_name(run_dir.name, taken)
            try:
                found, what = _earlier_set(name, run_dir, earlier, folder, trained, get, say)
            except ShardtuneError as error:
                notices.append(_why_not(folder, run_dir, error))
            else:
                sets.append(found)
                notices.append(_notice(recipe, run_dir, found, what))
        folder = Path(earlier.model.path)
    return sets, notices


def is_export(folder: Path) -> bool:
    """Whether the folder holds a model that a run has exported."""
    return run_of(folder) is not None or (folder / EVALUATION).is_file()


def run_of(folder: Path) -> Path | None:
    """The directory of the run that has exported the model in this folder; None if it does not lie in one."""
    run_dir = folder.parent.parent
    return run_dir if folder.parent.name == EXPORT and (run_dir / CONFIG).is_file() else None


def _notice(recipe: Recipe, run_dir: Path, found: HeldOut, what: str) -> str:
    """What to say of a set."""
    origin = "model.path is of" if run_of(Path(recipe.model.path)) == run_dir else "before it came"
    return (
        f"{origin} the run {run_dir.name}: its {what} rows ({len(found.split):,} examples) are a retention set"
        f"{'' if found.name == run_dir.name else f', {found.name}'} (retention.sequential)"
    )


def _why_not(folder: Path, run_dir: Path, error: ShardtuneError) -> str:
    """What to say of a run without a set."""
    reason = str(error).splitlines()[0]
    return f"what {folder} could do before is not evaluated: {run_dir}: {reason} (retention.sequential)"


def _new_name(name: str, taken: Sequence[str]) -> str:
    """The name, with a number if it is taken."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(each for each in names if each not in taken)


def _notice_without_run(folder: Path) -> str:
    """What to say of an export that does not lie in a run directory."""
    return (
        f"{folder} is the export of a run, but does not lie in its run directory, so the rows of that run are not "
        "known: what it could do before is not evaluated (retention.sets names rows)"
    )


def _earlier_set(
    name: str, run_dir: Path, recipe: Recipe, folder: Path, trained: Trained, get: Get, say: Say
) -> tuple[HeldOut, str]:
    """The held-out rows of a run that has exported the model in this folder, and the name of their split.

    Raises ShardtuneError if they cannot be had.
    """
    split = next((name for name in ("dev", "test") if getattr(recipe.data, name) is not None), None)
    if split is None:
        raise DataError("its recipe names neither dev nor test rows")
    head = str(folder) if str(folder) == trained.recipe.model.path else folder_of(str(folder))
    prepared = _prepared_by(run_dir, recipe)
    if prepared is not None and prepared.split(split) is not None:
        return _as_prepared(name, recipe, prepared, split, head, trained), split
    if recipe.data.share(split) is not None:
        raise DataError(
            f"its {split} rows are a share of its training rows, and its prepared data are no longer in "
            f"{recipe.data.cache_dir}; `shardtune prepare` makes them again"
        )
    rows = RetentionSet(
        task=recipe.task,
        data=tuple(_of_split(source, split) for source in recipe.data.sources(split)),
        columns=recipe.data.columns,
        model=None if _answers_itself(trained, recipe, head) else head,
        max_tokens=recipe.data.max_tokens,
    )
    return prepare_set(trained, name, rows, get, say, is_automatic=True), split


def _answers_itself(trained: Trained, recipe: Recipe, head: str) -> bool:
    """Whether the model in training, or else the one that it began as, answers the rows of an earlier run."""
    if head == trained.recipe.model.path:
        return True
    labels = labels_for(recipe.task, load_model_config(recipe_for(trained.recipe, head)))
    return (
        labels is not None
        and trained.recipe.model.head != "new"
        and trained.has_head_for(recipe.task)
        and sorted(labels) == sorted(trained.labels)
    )


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


def _as_prepared(name: str, recipe: Recipe, prepared: Prepared, split: str, head: str, trained: Trained) -> HeldOut:
    """The rows as the run itself has evaluated them. Raises DataError if nobody can answer them."""
    own = recipe_for(recipe.model_copy(update={"model": trained.recipe.model}), head)
    labels = TASKS[recipe.task.kind].head_labels(prepared.facts) if recipe.task.has_labels else None
    is_own = labels is not None and trained.has_head_for(recipe.task) and labels == trained.labels
    if is_own and trained.recipe.model.head != "new":
        return HeldOut(name, own, prepared, split, None, is_automatic=True)
    config = load_model_config(own)
    if labels is not None and labels_for(recipe.task, config) is None:
        raise DataError(f"{head} has no head for {recipe.task.kind}")
    task = task_of(own, prepared.facts, load_tokenizer(own), config)
    answers = settle(trained, Answerer(head, recipe.task, labels), task, is_named=False)
    return HeldOut(name, own, prepared, split, answers, is_automatic=True)
