"""Evaluates a model on labeled rows, on one rank or on many.

`python -m shardtune.trainer.commands.quality.evaluate RUN_DIR|MODEL_FOLDER --data=PATH`: prints the metrics with their
intervals. With --prepare=FOLDER the rows are only read and encoded, and with --prepared=FOLDER the ranks, under
torchrun, evaluate these.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.errors import DataError, ShortOfMemoryError
from shardtune.json_lines import json_line
from shardtune.processes import run_piped
from shardtune.run_dir.files import published
from shardtune.run_dir.view.results import render_metrics
from shardtune.trainer.commands.inference.predictions import predict_together
from shardtune.trainer.commands.inference.shared_command import PATIENCE, add_rank_arguments, carry_out, say_at_end
from shardtune.trainer.commands.quality.elsewhere import learn_facts
from shardtune.trainer.commands.quality.labeled_rows import Say, as_learned, read_labeled_rows
from shardtune.trainer.commands.quality.stored_rows import StoredRows, open_rows, store_rows
from shardtune.trainer.commands.quality.subject import BEST, Subject, find_subject
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import row_batches
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.distributed.meeting import meet
from shardtune.trainer.distributed.ranks import Ranks, connect, disconnect
from shardtune.trainer.engine.memory.shortage import is_memory_error
from shardtune.trainer.engine.memory.usage import gpu_memory
from shardtune.trainer.evaluation.evaluate import without_answers
from shardtune.trainer.evaluation.exported import ExportedModel
from shardtune.trainer.evaluation.generate import questions
from shardtune.trainer.evaluation.rows import LOSS, Evaluated, RowScores, evaluate_rows
from shardtune.trainer.tasks import Task


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation has found; the same metrics on every rank."""

    metrics: dict[str, Any]
    predictions: list[dict[str, Any]]
    """For each row in order its columns, `prediction`, `loss` and `place`; empty on other ranks than rank 0, or if none
    are wanted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command, or one rank of it, and returns its exit code."""
    arguments = _parse(argv)
    return carry_out(_main, arguments, arguments.prepared)


def _main(arguments: argparse.Namespace) -> None:
    subject = find_subject(
        arguments.model_or_run,
        model=arguments.model,
        kind=arguments.task,
        overrides=arguments.overrides,
        paths=arguments.data,
    )
    if arguments.predictions is not None:
        _refuse_unwritable(arguments.predictions)
    with ExitStack() as stack:
        if arguments.prepared is not None:
            rows = open_rows(arguments.prepared)
        else:
            folder = arguments.prepare or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rows = prepare_rows(subject, arguments.data, folder, lambda text: print(text, file=sys.stderr))
        if arguments.prepare is not None:
            return
        ranks = connect(arguments.device, store=meet(PATIENCE), timeout=PATIENCE)
        stack.callback(disconnect)
        wants = arguments.predictions is not None
        found = evaluate_model(subject, rows, ranks, with_predictions=wants, is_split=arguments.split_model)
        ranks.barrier()
    if not ranks.is_zero:
        return
    print(_rendered(found.metrics, subject, arguments, rows.num_rows))
    if arguments.predictions is not None:
        with published(arguments.predictions) as draft, draft.open("w", encoding="utf-8") as file:
            file.writelines(map(json_line, found.predictions))
        say_at_end(f"{counted(rows.num_rows, 'prediction')} written to {arguments.predictions}", arguments.prepared)


def prepare_rows(subject: Subject, paths: Sequence[str], folder: Path, say: Say) -> StoredRows:
    """Reads and encodes the rows of these paths, into the folder. Raises DataError for all that is wrong with them."""
    if subject.facts is not None:
        look = as_learned(subject.recipe, subject.facts)
    else:
        look = partial(learn_facts, subject.recipe, subject.folder, say=say)
    run_dir = subject.given if subject.is_run else None
    rows, facts = read_labeled_rows(paths, subject.recipe, look, say, run_dir=run_dir)
    return store_rows(rows, facts, subject.recipe, subject.open_task(facts), folder, say)


def evaluate_model(
    subject: Subject, rows: StoredRows, ranks: Ranks, *, with_predictions: bool, is_split: bool = False
) -> Evaluation:
    """Collective: evaluates the rows, each on one rank; the metrics are the same on any number of ranks.

    Raises CheckpointError if the model cannot be read, and ShortOfMemoryError.
    """
    try:
        return _evaluate_model(subject, rows, ranks, with_predictions=with_predictions, is_split=is_split)
    except Exception as error:
        if not is_memory_error(error, free=gpu_memory(ranks.device).free):
            raise
        raise ShortOfMemoryError(
            f"rank {ranks.rank} ran out of memory with the whole model of {subject.folder} and micro-batches of at "
            f"most {subject.micro_batch_tokens:,} tokens (train.micro_batch_tokens); divide the model over the GPUs "
            "(--split-model), or use fewer ranks (--ranks) if they share the memory"
        ) from error


def _evaluate_model(
    subject: Subject, rows: StoredRows, ranks: Ranks, *, with_predictions: bool, is_split: bool
) -> Evaluation:
    """Collective: as evaluate_model."""
    task, model, tokenizer = subject.open_model(rows.facts, ranks.device, is_split=is_split)
    evaluated = _evaluate(subject, rows, task, model, tokenizer, ranks)
    predictions = []
    if with_predictions:
        answers = _answers(subject, rows, task, model, tokenizer, ranks)
        if evaluated.rows is not None:
            losses = _losses(evaluated.rows, rows)
            predictions = [
                {**row.values, "prediction": answers[number], "loss": losses.get(place), "place": place}
                for number, row in enumerate(rows.rows())
                for place in (str(row.place),)
            ]
    return Evaluation(without_answers(evaluated.metrics), predictions)


def _evaluate(subject: Subject, rows: StoredRows, task: Task, model: Any, tokenizer: Any, ranks: Ranks) -> Evaluated:
    """Collective: as a run evaluates its test split."""
    batch_maker = BatchMaker(task, ranks, None, micro_batch_tokens=subject.micro_batch_tokens)
    asked, generation = None, task.generation
    if generation is not None and (num_rows := generation.num_rows("test")) != 0:
        asked = questions(rows.split, generation, num_rows, batch_maker)
    with closing(prefetch(row_batches(rows.split, batch_maker))) as ahead:
        batches = (entry.item for entry in ahead)
        return evaluate_rows(ExportedModel(model, task), task, rows.split, batches, asked, tokenizer, ranks=ranks)


def _answers(
    subject: Subject, rows: StoredRows, task: Task, model: Any, tokenizer: Any, ranks: Ranks
) -> dict[int, dict[str, Any]]:
    """Collective: on rank 0, the prediction of each row by its number, as `predict` gives it."""
    found = predict_together(task, model, tokenizer, rows.rows(), subject.recipe.data.max_tokens, ranks)
    return dict(enumerate(answer for answers in found for answer in answers))


def _losses(scores: RowScores, rows: StoredRows) -> dict[str, float]:
    """The mean loss per target of each row that has targets, by its place."""
    sums, counts = (np.zeros(scores.num_rows) for _ in LOSS)
    of_example = scores.row_of_example[scores.passed.examples]
    for total, name in zip((sums, counts), LOSS, strict=True):
        np.add.at(total, of_example, scores.passed.scores[name].double().numpy())
    places = {int(row): rows.split.place(example) for example, row in enumerate(scores.row_of_example)}
    return {place: float(sums[row] / counts[row]) for row, place in places.items() if counts[row]}


def _rendered(metrics: Mapping[str, Any], subject: Subject, arguments: argparse.Namespace, num_rows: int) -> str:
    if arguments.json:
        report = {"model": str(subject.folder), "data": arguments.data, "rows": num_rows, "metrics": metrics}
        return json.dumps(report, ensure_ascii=False, indent=1)
    head = f"{subject.folder} on {counted(num_rows, 'row')} of {', '.join(arguments.data)}"
    return f"{head}\n\n{render_metrics({'evaluated': metrics})}"


def _refuse_unwritable(path: Path) -> None:
    """Raises DataError if the predictions could not be written there, before anything is computed."""
    if path.suffix in (".csv", ".tsv", ".parquet"):
        raise DataError(f"--predictions: predictions are JSON lines; name it {path.with_suffix('.jsonl')}")
    if not path.parent.is_dir():
        raise DataError(f"--predictions: there is no folder {path.parent}; make it, or name another one")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser("shardtune eval", description=__doc__)
    parser.add_argument("model_or_run", type=Path, metavar="RUN_DIR|MODEL_FOLDER", help="the model to evaluate")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of task and data, such as data.columns")
    parser.add_argument("--task", help="what the model of a folder has learned, if it does not tell")
    parser.add_argument("--data", action="append", required=True, help="labeled rows; may be given several times")
    parser.add_argument("--model", default=BEST, choices=(BEST, "last"), help="which exported model of a run")
    parser.add_argument("--predictions", type=Path, help="a JSON lines file to write, a line for each row")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    add_rank_arguments(parser)
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    run_piped(main)
