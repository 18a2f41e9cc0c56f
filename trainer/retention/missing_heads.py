"""Which heads a recipe needs and no model folder has, found before anything is loaded: only names of weights are read.

(With device_map="meta", transformers' from_pretrained compares the names in the files with those of the model.)
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.prepare.prepare import Prepared
from shardtune.trainer.model.head import choose_head
from shardtune.trainer.model.load import config_to_load, load_weights, refuse_without_base
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.retention.sets import HeldOut, Retention
from shardtune.trainer.retention.sibling import open_sibling
from shardtune.trainer.setup.regularize.earlier_skill import earlier_recipe
from shardtune.trainer.setup.regularize.fisher import refuse_new_head
from shardtune.trainer.tasks import Task, task_of

NOWHERE = torch.device("meta")


def refuse_missing_heads(recipe: Recipe, task: Task, retention: Retention, earlier: Prepared | None) -> None:
    """Raises DataError with a line for each retention set, regularize.ewc and kl_to_base that a head is missing for.

    `earlier` are the prepared rows of regularize.ewc. Models on the hub are not asked for.
    """
    sets = [held_out for held_out in retention.sets if held_out.head is not None and Path(held_out.head).is_dir()]
    is_local = Path(recipe.model.path).is_dir() and not recipe.model.from_scratch
    if not is_local or not (sets or earlier or recipe.compares_with_base):
        return
    with _quiet():
        faults = [*_faults(_in_fp32(recipe), task, sets, earlier)]
    if faults:
        raise DataError("\n".join(faults))


def _in_fp32(recipe: Recipe) -> Recipe:
    """The recipe with a precision that can be asked for on any machine."""
    return recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"precision": "fp32"})})


def _faults(recipe: Recipe, task: Task, sets: Sequence[HeldOut], earlier: Prepared | None) -> Iterator[str]:
    head = choose_head(recipe, task, load_model_config(recipe))
    model, new = load_weights(recipe, task, config_to_load(recipe, task, head), None, NOWHERE)
    try:
        refuse_without_base(recipe, new)
    except DataError as error:
        yield str(error)
    if earlier is not None:
        yield from _faults_of_earlier(recipe, earlier)
    for held_out in sets:
        yield from _faults_of_set(model, held_out)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from showing progress, and all from warning of weights that are missing."""
    before = logging.root.manager.disable
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _faults_of_earlier(recipe: Recipe, prepared: Prepared) -> Iterator[str]:
    """What is missing for the rows of regularize.ewc."""
    ewc = recipe.regularize.ewc
    assert ewc is not None, "its rows are prepared"
    own = earlier_recipe(recipe, ewc)
    task = task_of(own, prepared.facts, load_tokenizer(own), load_model_config(own))
    try:
        refuse_new_head(*load_weights(own, task, load_model_config(own, task), None, NOWHERE))
    except (ConfigError, DataError) as error:
        yield str(error)


def _faults_of_set(model: torch.nn.Module, held_out: HeldOut) -> Iterator[str]:
    """What is missing for the rows of a set. Of one that the recipe does not name, nothing is wrong."""
    if held_out.is_automatic:
        return
    task, _ = held_out.task()
    try:
        open_sibling(model, _in_fp32(held_out.recipe), task, NOWHERE)
    except DataError as error:
        yield f"retention.sets.{held_out.name}: {error}"
