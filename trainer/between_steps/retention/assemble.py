"""Puts together who evaluates the retention sets of a run."""

from collections.abc import Iterator
from dataclasses import replace

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.between_steps.evaluator import Evaluator
from shardtune.trainer.between_steps.retention.evaluation import RetentionEvaluation, RetentionSet
from shardtune.trainer.retention.drop import Judge
from shardtune.trainer.retention.inference import open_inference
from shardtune.trainer.retention.sets import HeldOut, Retention
from shardtune.trainer.setup.load_engine import Loaded
from shardtune.trainer.tasks.masks import Masks


def retention_evaluation(
    retention: Retention, recipe: Recipe, loaded: Loaded, dev: Evaluator
) -> RetentionEvaluation | None:
    """Collective: what evaluates the sets with the model in training, as `dev` evaluates dev; None if there are none.

    Reads the heads that the model does not have itself. Raises DataError if one of them cannot be had.
    """
    sets = tuple(_sets(retention, recipe, loaded, dev))
    return RetentionEvaluation(sets, dev.reporter) if sets else None


def _sets(retention: Retention, recipe: Recipe, loaded: Loaded, dev: Evaluator) -> Iterator[RetentionSet]:
    for held_out in retention.sets:
        try:
            yield _set(held_out, recipe, loaded, dev)
        except DataError as error:
            if not held_out.is_automatic:
                raise
            text = f"what the model could do before is not evaluated: {error} (retention.sequential)"
            dev.reporter.report("notice", text=text)


def _set(held_out: HeldOut, recipe: Recipe, loaded: Loaded, dev: Evaluator) -> RetentionSet:
    task, tokenizer = held_out.task()
    inference = open_inference(loaded.engine, loaded.model, recipe, held_out, task, dev.ranks)
    # Unpacked and with plain masks: how the model in training packs its own rows says nothing of these.
    batch_maker = replace(loaded.batch_maker, task=task, packing=None, masks=Masks.KEPT)
    judge = Judge(
        metric=task.main_metric,
        lower_is_better=task.main_metric in task.lower_is_better,
        limit=recipe.retention.limit(held_out.name),
    )
    return RetentionSet(
        name=held_out.name,
        kind=held_out.recipe.task.kind,
        fingerprint=held_out.prepared.folder.name,
        split=held_out.split,
        evaluator=replace(dev, engine=inference, task=task, tokenizer=tokenizer, batch_maker=batch_maker),
        judge=judge,
    )
