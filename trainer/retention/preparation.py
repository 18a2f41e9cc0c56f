"""Prepares the rows of all retention sets, those that a recipe names and those of the runs that it follows."""

from pathlib import Path

from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.prepare.prepare import Prepared, find_prepared, prepare
from shardtune.trainer.data.prepare.work_queue import Progress
from shardtune.trainer.retention.heads import Trained
from shardtune.trainer.retention.sequential import earlier_sets, is_export
from shardtune.trainer.retention.sets import (
    NO_RETENTION,
    Get,
    NotPreparedError,
    Retention,
    Say,
    prepare_sets,
    refuse_unknown_limits,
)


def prepare_retention(
    recipe: Recipe, prepared: Prepared, *, say: Say = lambda _: None, progress: Progress = lambda *_: None
) -> Retention:
    """The retention sets of a recipe whose own data are prepared, from the cache or prepared now, as `prepare` does.

    Raises DataError for all that is wrong with their rows, or if a model has no head for them, and ConfigError if
    retention.max_drop names no set.
    """
    return _retention(recipe, prepared, lambda recipe, say: prepare(recipe, say=say, progress=progress), say)


def find_retention(recipe: Recipe, prepared: Prepared) -> Retention | None:
    """The retention sets from the cache; None if any is not there. Raises as prepare_retention does."""
    try:
        return _retention(recipe, prepared, lambda recipe, _: find_prepared(recipe), lambda _: None)
    except NotPreparedError:
        return None


def _retention(recipe: Recipe, prepared: Prepared, get: Get, say: Say) -> Retention:
    wanted = recipe.retention
    follows = wanted.sequential and is_export(Path(recipe.model.path))
    if not wanted.sets and not follows:
        refuse_unknown_limits(recipe, ())
        return NO_RETENTION
    trained = Trained.of(recipe, prepared.facts)
    sets, notices = [*prepare_sets(recipe, trained, get, say)], list[str]()
    if follows:
        earlier, notices = earlier_sets(recipe, trained, get, say)
        sets += earlier
    refuse_unknown_limits(recipe, tuple(sets))
    for notice in notices:
        say(notice)
    return Retention(tuple(sets), tuple(notices))
