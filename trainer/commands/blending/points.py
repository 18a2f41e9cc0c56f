"""What a blended model can do: its metrics on dev, on test, and on rows of other skills."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.recipe.schema import Recipe
from shardtune.trainer.commands.blending.choice import Measure, Point
from shardtune.trainer.commands.quality.evaluate import evaluate_model, prepare_rows
from shardtune.trainer.commands.quality.judged_runs import facts_of
from shardtune.trainer.commands.quality.stored_rows import open_rows
from shardtune.trainer.commands.quality.subject import Subject
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import evaluation_batches, row_batches
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.data.prepare.prepare import Prepared
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Inference
from shardtune.trainer.evaluation.evaluate import evaluate, without_answers
from shardtune.trainer.evaluation.exported import ExportedModel
from shardtune.trainer.evaluation.generate import Questions, questions
from shardtune.trainer.evaluation.rows import evaluate_rows
from shardtune.trainer.model.load import DTYPES
from shardtune.trainer.retention.inference import open_inference
from shardtune.trainer.retention.preparation import prepare_retention
from shardtune.trainer.retention.sets import HeldOut
from shardtune.trainer.tasks import Task

OTHER = "other rows"
"""The name of the set that --data gives."""


@dataclass(frozen=True)
class OtherSet:
    """Rows of another skill, by which a blended model is judged too."""

    measure: Measure
    evaluate: Callable[[Subject, Ranks], Mapping[str, Any]]
    """Collective: the metrics of an exported model on them."""


def other_sets(measure: Measure, folder: Path) -> dict[str, OtherSet]:
    """The sets besides dev and test, by their names: the rows that keep_other_rows has kept in the folder."""
    if not (folder / OTHER).is_dir():
        return {}
    rows = open_rows(folder / OTHER)

    def evaluated(model: Subject, ranks: Ranks) -> Mapping[str, Any]:
        return evaluate_model(model, rows, ranks, with_predictions=False).metrics

    return {OTHER: OtherSet(measure, evaluated)}


def retention_sets(recipe: Recipe, prepared: Prepared) -> dict[str, OtherSet]:
    """The retention sets of a run, whose rows are prepared."""
    return {held_out.name: _retention_set(recipe, held_out) for held_out in prepare_retention(recipe, prepared).sets}


def _retention_set(recipe: Recipe, held_out: HeldOut) -> OtherSet:
    task, tokenizer = held_out.task()

    def evaluated(exported: Subject, ranks: Ranks) -> Mapping[str, Any]:
        own_task, model, _ = exported.open_model(facts_of(exported), ranks.device, is_split=False)
        precision = next(name for name, dtype in DTYPES.items() if dtype == model.dtype)
        as_exported = recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"precision": precision})})
        inference = open_inference(ExportedModel(model, own_task), model, as_exported, held_out, task, ranks)
        return _Splits(exported, task, inference, tokenizer, ranks).test(held_out.split)

    return OtherSet(Measure(task.main_metric, task.main_metric in task.lower_is_better), evaluated)


def keep_other_rows(exported: Subject, paths: Sequence[str], folder: Path, say: Callable[[str], None]) -> None:
    """Reads and encodes the rows of these paths for other_sets. Raises DataError for all that is wrong with them."""
    if paths:
        (folder / OTHER).mkdir()
        prepare_rows(exported, paths, folder / OTHER, say)


def measure_of(recipe: Recipe, task: Task) -> Measure:
    """The dev metric that chose the best model of a run."""
    metric = recipe.checkpoint.best_metric or task.main_metric
    return Measure(metric, metric in task.lower_is_better)


def evaluate_point(
    exported: Subject, prepared: Prepared, alpha: float, others: Mapping[str, OtherSet], ranks: Ranks
) -> Point:
    """Collective: the metrics of the blended model in the exported folder, the same on any number of ranks.

    What later answers need, such as thresholds, is taken from its own dev metrics.
    """
    task, model, tokenizer = exported.open_model(facts_of(exported), ranks.device, is_split=False)
    of_splits = _Splits(exported, task, ExportedModel(model, task), tokenizer, ranks)
    dev, test = prepared.split("dev"), prepared.split("test")
    assert dev is not None, "without dev nothing is blended"
    on_dev = of_splits.dev(dev)
    task.calibrate(on_dev)
    on_test = {} if test is None else of_splits.test(test)
    del model, of_splits
    found = {name: other.evaluate(exported, ranks) for name, other in others.items()}
    return Point(alpha, on_dev, on_test, found)


@dataclass(frozen=True)
class _Splits:
    """Evaluates splits as the run itself does."""

    exported: Subject
    task: Task
    engine: Inference
    tokenizer: Any
    ranks: Ranks

    @property
    def _batch_maker(self) -> BatchMaker:
        return BatchMaker(self.task, self.ranks, None, micro_batch_tokens=self.exported.micro_batch_tokens)

    def dev(self, split: Split) -> dict[str, Any]:
        with closing(prefetch(evaluation_batches(split, self._batch_maker))) as ahead:
            batches, asked = (entry.item for entry in ahead), self._asked("dev", split)
            metrics = evaluate(self.engine, self.task, batches, asked, self.tokenizer, ranks=self.ranks)
        return without_answers(metrics)

    def test(self, split: Split) -> dict[str, Any]:
        with closing(prefetch(row_batches(split, self._batch_maker))) as ahead:
            batches, asked = (entry.item for entry in ahead), self._asked("test", split)
            evaluated = evaluate_rows(self.engine, self.task, split, batches, asked, self.tokenizer, ranks=self.ranks)
        return without_answers(evaluated.metrics)

    def _asked(self, name: str, split: Split) -> Iterator[Questions] | None:
        generation = self.task.generation
        if generation is None or (num_rows := generation.num_rows(name)) == 0:
            return None
        return questions(split, generation, num_rows, self._batch_maker)
