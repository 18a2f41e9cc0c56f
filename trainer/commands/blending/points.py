"""What a blended model can do: its metrics on dev, on test, and on rows of other skills."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.recipe.schema import Recipe
from shardtune.trainer.commands.blending.choice import Measure, Point
from shardtune.trainer.commands.predict import open_model
from shardtune.trainer.commands.quality.evaluate import ExportedRun, evaluate_run, prepare_rows
from shardtune.trainer.commands.quality.stored_rows import open_rows
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import evaluation_batches, row_batches
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.data.prepare.prepare import Prepared
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.evaluation.evaluate import evaluate, without_answers
from shardtune.trainer.evaluation.exported import ExportedModel
from shardtune.trainer.evaluation.generate import Questions, questions
from shardtune.trainer.evaluation.rows import evaluate_rows
from shardtune.trainer.tasks import Task

OTHER = "other rows"
"""The name of the set that --data gives."""


@dataclass(frozen=True)
class OtherSet:
    """Rows of another skill, by which a blended model is judged too."""

    measure: Measure
    evaluate: Callable[[ExportedRun, Ranks], Mapping[str, Any]]
    """Collective: the metrics of an exported model on them."""


def other_sets(measure: Measure, folder: Path) -> dict[str, OtherSet]:
    """The sets besides dev and test, by their names: the rows that keep_other_rows has kept in the folder."""
    if not (folder / OTHER).is_dir():
        return {}
    rows = open_rows(folder / OTHER)

    def evaluated(model: ExportedRun, ranks: Ranks) -> Mapping[str, Any]:
        return evaluate_run(model, rows, ranks, with_predictions=False).metrics

    return {OTHER: OtherSet(measure, evaluated)}


def keep_other_rows(exported: ExportedRun, paths: Sequence[str], folder: Path, say: Callable[[str], None]) -> None:
    """Reads and encodes the rows of these paths for other_sets. Raises DataError for all that is wrong with them."""
    if paths:
        (folder / OTHER).mkdir()
        prepare_rows(exported, paths, folder / OTHER, say)


def measure_of(recipe: Recipe, task: Task) -> Measure:
    """The dev metric that chose the best model of a run."""
    metric = recipe.checkpoint.best_metric or task.main_metric
    return Measure(metric, metric in task.lower_is_better)


def evaluate_point(
    exported: ExportedRun, prepared: Prepared, alpha: float, others: Mapping[str, OtherSet], ranks: Ranks
) -> Point:
    """Collective: the metrics of the blended model in the exported folder, the same on any number of ranks.

    What later answers need, such as thresholds, is taken from its own dev metrics.
    """
    task, model, tokenizer = open_model(exported.recipe, exported.folder, exported.facts, ranks.device)
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

    exported: ExportedRun
    task: Task
    engine: ExportedModel
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
