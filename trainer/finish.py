"""The end of a run: the best model is evaluated on test, the results are written, and the models are exported."""

import json
from collections.abc import Mapping
from typing import Any

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import CHECKPOINTS, EXPORT, EXPORT_PENDING, RESULTS, TEST_ROWS, write_atomically
from shardtune.trainer.between_steps.averages.last_checkpoints import Averaged, LastCheckpoints
from shardtune.trainer.between_steps.stop_checks import StopChecks
from shardtune.trainer.checkpoint.manifest import Checkpoint
from shardtune.trainer.checkpoint.resume import (
    first_whole,
    restore,
)
from shardtune.trainer.distributed.background import run_on_zero
from shardtune.trainer.evaluation.evaluate import without_answers
from shardtune.trainer.evaluation.row_file import write_rows
from shardtune.trainer.export.export import Export, copy_export, in_order, write_together
from shardtune.trainer.training import Start, Training


def finish(start: Start, training: Training) -> dict[str, Any]:
    """Collective: evaluates the best model on test, and exports it and the last one, both from their checkpoints.

    Returns the results, which are written before the export. Raises CheckpointError if the last step could not be
    saved, or the models not be exported; StopAsked.
    """
    training.milestones.finish()
    state, task, policy = training.milestones.state, training.loaded.task, training.resumed.policy
    best, last = _best_and_last(start, training)
    averaged = _average_last(start, training, best)
    if averaged is not None and averaged.checkpoint is not None:
        best = averaged.checkpoint
    elif averaged is not None or best.step != state.step:
        restore(training.loaded.engine, best, weights_only=True)
    results: dict[str, Any] = {"step": state.step, "best_step": best.step}
    if averaged is not None:
        results["average_last"] = averaged.as_results()
    if state.dev_at_start is not None:
        results["dev_at_start"] = state.dev_at_start
    if (dev_metrics := best.manifest.dev_metrics) is not None:
        results["dev"] = dict(dev_metrics)
        task.calibrate(dev_metrics)
    if best.manifest.metric(policy.metric) is not None:
        results["chosen_by"] = {"metric": policy.metric, "lower_is_better": policy.lower_is_better}
    if (test := start.prepared.split("test")) is not None:
        evaluated = training.evaluator.evaluate_rows("test", test, best.step)
        results["test"] = without_answers(evaluated.metrics)
        if evaluated.rows is not None:
            write_rows(start.run_dir / TEST_ROWS, evaluated.rows, test)
    if training.retention is not None:
        results["retention"] = training.retention.results(state, best.step)
    _write_results(start, results | {EXPORT_PENDING: True})
    with training.phases("exporting the models"):
        _export(start, training.stop_checks, best, last, results)
    _write_results(start, results)
    return results


def _average_last(start: Start, training: Training, best: Checkpoint) -> Averaged | None:
    """Collective: the mean of the last checkpoints, if the recipe asks for it. Raises StopAsked."""
    number, dev = start.recipe.checkpoint.average_last, start.prepared.split("dev")
    if number is None or dev is None:
        return None
    checkpoints = training.resumed.checkpoints
    last = LastCheckpoints(
        number=number,
        folder=start.run_dir / CHECKPOINTS,
        dev=dev,
        policy=training.resumed.policy,
        engine=training.loaded.engine,
        evaluator=training.evaluator,
    )
    return last.average(checkpoints.complete() if start.ranks.is_zero else [], best)


def _write_results(start: Start, results: Mapping[str, Any]) -> None:
    if start.ranks.is_zero:
        write_atomically(start.run_dir / RESULTS, json.dumps(results, indent=1))


def _best_and_last(start: Start, training: Training) -> tuple[Checkpoint, Checkpoint]:
    """Collective: the checkpoints of the best model and of the last step. Raises CheckpointError if one is missing."""
    ranks, state = start.ranks, training.milestones.state
    complete = training.resumed.checkpoints.complete() if ranks.is_zero else []
    last = first_whole([checkpoint for checkpoint in complete if checkpoint.step == state.step], ranks)
    best = first_whole(in_order(complete, start.recipe), ranks)
    if last is None or best is None:
        raise CheckpointError(
            f"training finished, but its last checkpoint could not be saved. Free space in {start.run_dir} and run "
            "again; it resumes from the newest checkpoint"
        )
    if state.best_step is not None and best.step != state.best_step:
        start.reporter.report(
            "alert",
            title=f"the checkpoint of the best model (step {state.best_step}) is missing",
            text=f"the best remaining checkpoint, of step {best.step}, is used instead",
            step=state.step,
        )
    return best, last


def _export(
    start: Start, stop_checks: StopChecks, best: Checkpoint, last: Checkpoint, results: Mapping[str, Any]
) -> None:
    """Collective: exports both models, whose files the ranks share. Raises CheckpointError or StopAsked."""
    folder = start.run_dir / EXPORT
    exports = [Export(start.run_dir, best, folder / "best", recipe=start.recipe, results=results)]
    if best.path != last.path:
        exports.append(Export(start.run_dir, last, folder / "last", recipe=start.recipe))
    write_together(exports, start.ranks, stop_checks.requested)
    if best.path == last.path:
        run_on_zero(start.ranks, lambda: copy_export(folder / "best", folder / "last"))
