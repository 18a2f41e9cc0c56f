"""The rows of a run as its model judges them, or models that were not trained on them."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from shardtune.errors import ConfigError, ShortOfMemoryError
from shardtune.run_dir.run import refuse_other_data
from shardtune.trainer.commands.inference.exported_model import find_model
from shardtune.trainer.commands.quality.subject import BEST, Subject
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import row_batches
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.data.prepare.prepare import Prepared, prepare
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.memory.shortage import is_memory_error
from shardtune.trainer.engine.memory.usage import gpu_memory
from shardtune.trainer.evaluation.exported import ExportedModel
from shardtune.trainer.evaluation.suspects.judge import judge
from shardtune.trainer.evaluation.suspects.listing import JudgedRows, renamed
from shardtune.trainer.tasks import TASKS


def judge_run(exported: Subject, folds: Sequence[Subject], ranks: Ranks) -> list[JudgedRows]:
    """Collective: the rows of a run as models judge them, on rank 0; an empty list on the others.

    Without folds the model of the run judges all rows, also those that it was trained on. With folds each row is judged
    by a model that was not trained on it. Raises CheckpointError if a model cannot be read, or the data have changed;
    ShortOfMemoryError.
    """
    recipe = exported.recipe
    if folds and recipe.data.streaming:
        raise ConfigError("--folds: a stream has no folds; its training rows cannot be judged")
    prepared = _prepared(exported)
    names = [name for name in ("train", "dev", "test") if name in prepared.meta["splits"]]
    if folds or recipe.data.streaming:
        names.remove("train")
    if folds and recipe.data.share("test") is not None:
        names.remove("test")  # its rows are divided into folds together with those of train
    parts = _judge(exported, prepared, dict(zip(names, names, strict=True)), exported, ranks)
    for fold in folds:
        parts += _judge(fold, _prepared(fold), {"test": "train"}, exported, ranks)
    return parts


def open_run(run_dir: Path) -> Subject:
    """The best model of a finished run. Raises CheckpointError if there is none."""
    recipe, folder, facts = find_model(run_dir, BEST)
    return Subject(run_dir, recipe, folder, facts, is_run=True)


def facts_of(run: Subject) -> Mapping[str, Any]:
    """What the task knows of the run's training rows."""
    assert run.facts is not None, "a run knows its facts"
    return run.facts


def label_names(run: Subject) -> list[str]:
    """The labels that a run has learned; empty if its task has none."""
    return TASKS[run.recipe.task.kind].head_labels(facts_of(run))


def _prepared(run: Subject) -> Prepared:
    """The data of a run. Raises CheckpointError if they are others now."""
    prepared = prepare(run.recipe)
    refuse_other_data(run.given, prepared.identity, keep=False)
    return prepared


def _judge(
    run: Subject, prepared: Prepared, splits: Mapping[str, str], whole: Subject, ranks: Ranks
) -> list[JudgedRows]:
    """Collective: splits of a run, with the names that they and their labels have in the whole run."""
    if not splits:
        return []
    try:
        return _judge_splits(run, prepared, splits, whole, ranks)
    except Exception as error:
        if not is_memory_error(error, free=gpu_memory(ranks.device).free):
            raise
        raise ShortOfMemoryError(
            f"rank {ranks.rank} ran out of memory with the whole model of {run.folder}; use a machine as large as that "
            "of the training, or fewer ranks (--ranks) if they share its memory"
        ) from error


def _judge_splits(
    run: Subject, prepared: Prepared, splits: Mapping[str, str], whole: Subject, ranks: Ranks
) -> list[JudgedRows]:
    task, model, _ = run.open_model(facts_of(run), ranks.device, is_split=False)
    own, names = label_names(run), label_names(whole)
    has_several = getattr(run.recipe.task, "problem", None) == "multi_label"
    engine = ExportedModel(model, task)
    batch_maker = BatchMaker(task, ranks, None, micro_batch_tokens=run.micro_batch_tokens)
    found = []
    for name, name_in_whole in splits.items():
        split = prepared.split(name)
        assert split is not None, "only splits that were prepared are judged"
        with closing(prefetch(row_batches(split, batch_maker))) as ahead:
            batches = (entry.item for entry in ahead)
            judged = judge(engine, task, batches, has_labels=bool(own), ranks=ranks)
        if judged is None:
            continue
        if judged.labels is not None:
            labels = renamed(judged.labels, own, names, has_several_labels=has_several)
            judged = replace(judged, labels=labels)
        found.append(JudgedRows(name_in_whole, name != "train", run is not whole, split, judged, has_several))
    return found
