"""Evaluates the exported model of a run on labeled rows, on one rank or on many.

`python -m shardtune.trainer.commands.quality.evaluate RUN_DIR --data=PATH`: prints the metrics with their intervals.
With --prepare=FOLDER the rows are only read and encoded, and with --prepared=FOLDER the ranks, under torchrun, evaluate
these.
"""

import argparse
import json
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.errors import DataError, ShardtuneError, ShortOfMemoryError, system_fault
from shardtune.json_lines import json_line
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER
from shardtune.run_dir.files import failure_path, published
from shardtune.run_dir.micro_batch_budget import read_budget
from shardtune.run_dir.view.results import render_metrics
from shardtune.trainer.commands.predict import WINDOW_ROWS, find_model, open_model, open_task, predict_window
from shardtune.trainer.commands.quality.labeled_rows import Say, read_labeled_rows
from shardtune.trainer.commands.quality.stored_rows import StoredRows, open_rows, store_rows
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import row_batches
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.distributed.meeting import meet
from shardtune.trainer.distributed.rank_env import global_rank
from shardtune.trainer.distributed.ranks import Ranks, connect, disconnect
from shardtune.trainer.engine.memory.shortage import is_memory_error
from shardtune.trainer.engine.memory.usage import gpu_memory
from shardtune.trainer.evaluation.evaluate import without_answers
from shardtune.trainer.evaluation.exported import ExportedModel
from shardtune.trainer.evaluation.generate import questions
from shardtune.trainer.evaluation.rows import LOSS, Evaluated, RowScores, evaluate_rows
from shardtune.trainer.setup.rank_log import drop_deprecation_warnings
from shardtune.trainer.tasks import Task

PATIENCE = timedelta(days=365)
"""Ranks wait for each other for any time: answers to some rows take much longer than those to others."""


@dataclass(frozen=True)
class ExportedRun:
    """The exported model of a run, and how the run reads rows."""

    run_dir: Path
    recipe: Recipe
    folder: Path
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, run_dir: Path, model: str) -> "ExportedRun":
        """Raises CheckpointError if it is not a run directory, or the model is not exported yet."""
        recipe, folder, facts = find_model(run_dir, model)
        return cls(run_dir, recipe, folder, facts)

    @property
    def micro_batch_tokens(self) -> int:
        """Those with which the run trained, which takes more memory than an evaluation."""
        tokens = self.recipe.train.micro_batch_tokens
        if tokens != "auto":
            return tokens
        kept = read_budget(self.run_dir)
        return self.recipe.data.max_tokens if kept is None else kept.tokens


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation has found; the same metrics on every rank."""

    metrics: dict[str, Any]
    predictions: list[dict[str, Any]]
    """For each row in order its columns, `prediction`, `loss` and `place`; empty on other ranks than rank 0, or if none
    are wanted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command, or one rank of it, and returns its exit code."""
    return carry_out(_main, _parse(argv))


def carry_out(work: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Does the work of a command that prepares and then runs on several ranks; returns its exit code.

    Why a rank fails is left in the folder `arguments.prepared`, where the launcher looks.
    """
    drop_deprecation_warnings()
    try:
        work(arguments)
    except (Exception, KeyboardInterrupt) as error:
        return _end(error, arguments.prepared)
    return EXIT_OK


def _main(arguments: argparse.Namespace) -> None:
    exported = ExportedRun.of(arguments.run_dir, arguments.model)
    if arguments.predictions is not None:
        _refuse_unwritable(arguments.predictions)
    with ExitStack() as stack:
        if arguments.prepared is not None:
            rows = open_rows(arguments.prepared)
        else:
            folder = arguments.prepare or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rows = prepare_rows(exported, arguments.data, folder, lambda text: print(text, file=sys.stderr))
        if arguments.prepare is not None:
            return
        ranks = connect(arguments.device, store=meet(PATIENCE), timeout=PATIENCE)
        stack.callback(disconnect)
        found = evaluate_run(exported, rows, ranks, with_predictions=arguments.predictions is not None)
        ranks.barrier()
    if not ranks.is_zero:
        return
    print(_rendered(found.metrics, exported, arguments, rows.num_rows))
    if arguments.predictions is not None:
        with published(arguments.predictions) as draft, draft.open("w", encoding="utf-8") as file:
            file.writelines(map(json_line, found.predictions))
        print(f"{counted(rows.num_rows, 'prediction')} written to {arguments.predictions}", file=sys.stderr)


def prepare_rows(exported: ExportedRun, paths: Sequence[str], folder: Path, say: Say) -> StoredRows:
    """Reads and encodes the rows of these paths, into the folder. Raises DataError for all that is wrong with them."""
    rows = read_labeled_rows(paths, exported.recipe, exported.facts, exported.run_dir, say)
    task, _, _ = open_task(exported.recipe, exported.folder, exported.facts)
    return store_rows(rows, exported.recipe, task, folder, say)


def evaluate_run(exported: ExportedRun, rows: StoredRows, ranks: Ranks, *, with_predictions: bool) -> Evaluation:
    """Collective: evaluates the rows, each on one rank; the metrics are the same on any number of ranks.

    Raises CheckpointError if the model cannot be read, and ShortOfMemoryError.
    """
    try:
        return _evaluate_run(exported, rows, ranks, with_predictions=with_predictions)
    except Exception as error:
        if not is_memory_error(error, free=gpu_memory(ranks.device).free):
            raise
        raise ShortOfMemoryError(
            f"rank {ranks.rank} ran out of memory with the whole model of {exported.folder} and micro-batches of at "
            f"most {exported.micro_batch_tokens:,} tokens, as in the training; evaluate on as large a machine, or on "
            "fewer ranks (--ranks) if they share its memory"
        ) from error


def _evaluate_run(exported: ExportedRun, rows: StoredRows, ranks: Ranks, *, with_predictions: bool) -> Evaluation:
    """Collective: as evaluate_run."""
    task, model, tokenizer = open_model(exported.recipe, exported.folder, exported.facts, ranks.device)
    evaluated = _evaluate(exported, rows, task, model, tokenizer, ranks)
    predictions = []
    if with_predictions:
        answers = _answers(exported, rows, task, model, tokenizer, ranks)
        if evaluated.rows is not None:
            losses = _losses(evaluated.rows, rows)
            predictions = [
                {**row.values, "prediction": answers[number], "loss": losses.get(place), "place": place}
                for number, row in rows.share(0, 1)
                for place in (str(row.place),)
            ]
    return Evaluation(without_answers(evaluated.metrics), predictions)


def _evaluate(
    exported: ExportedRun, rows: StoredRows, task: Task, model: Any, tokenizer: Any, ranks: Ranks
) -> Evaluated:
    """Collective: as a run evaluates its test split."""
    batch_maker = BatchMaker(task, ranks, None, micro_batch_tokens=exported.micro_batch_tokens)
    asked, generation = None, task.generation
    if generation is not None and (num_rows := generation.num_rows("test")) != 0:
        asked = questions(rows.split, generation, num_rows, batch_maker)
    with closing(prefetch(row_batches(rows.split, batch_maker))) as ahead:
        batches = (entry.item for entry in ahead)
        return evaluate_rows(ExportedModel(model, task), task, rows.split, batches, asked, tokenizer, ranks=ranks)


def _answers(
    exported: ExportedRun, rows: StoredRows, task: Task, model: Any, tokenizer: Any, ranks: Ranks
) -> dict[int, dict[str, Any]]:
    """Collective: on rank 0, the prediction of each row by its number; each rank predicts some, as `predict` does."""
    numbered = list(rows.share(ranks.rank, ranks.world_size))
    answers: dict[int, dict[str, Any]] = {}
    for start in range(0, len(numbered), WINDOW_ROWS):
        window = numbered[start : start + WINDOW_ROWS]
        found = predict_window(task, model, tokenizer, [row for _, row in window], exported.recipe.data.max_tokens)
        answers |= zip((number for number, _ in window), found, strict=True)
    return {number: answer for part in ranks.to_zero(answers) for number, answer in part.items()}


def _losses(scores: RowScores, rows: StoredRows) -> dict[str, float]:
    """The mean loss per target of each row that has targets, by its place."""
    sums, counts = (np.zeros(scores.num_rows) for _ in LOSS)
    of_example = scores.row_of_example[scores.passed.examples]
    for total, name in zip((sums, counts), LOSS, strict=True):
        np.add.at(total, of_example, scores.passed.scores[name].double().numpy())
    places = {int(row): rows.split.place(example) for example, row in enumerate(scores.row_of_example)}
    return {place: float(sums[row] / counts[row]) for row, place in places.items() if counts[row]}


def _rendered(metrics: Mapping[str, Any], exported: ExportedRun, arguments: argparse.Namespace, num_rows: int) -> str:
    if arguments.json:
        report = {"model": str(exported.folder), "data": arguments.data, "rows": num_rows, "metrics": metrics}
        return json.dumps(report, ensure_ascii=False, indent=1)
    head = f"{exported.folder} on {counted(num_rows, 'row')} of {', '.join(arguments.data)}"
    return f"{head}\n\n{render_metrics({'evaluated': metrics})}"


def _refuse_unwritable(path: Path) -> None:
    """Raises DataError if the predictions could not be written there, before anything is computed."""
    if path.suffix in (".csv", ".tsv", ".parquet"):
        raise DataError(f"--predictions: predictions are JSON lines; name it {path.with_suffix('.jsonl')}")
    if not path.parent.is_dir():
        raise DataError(f"--predictions: there is no folder {path.parent}; make it, or name another one")


def _end(error: BaseException, folder: Path | None) -> int:
    """Prints why this process ends, or records it in the folder, where the launcher looks; returns the exit code."""
    fault = system_fault(error) if isinstance(error, OSError) else None
    if isinstance(error, KeyboardInterrupt):
        code, text = EXIT_INTERRUPTED, "stopped"
    elif isinstance(error, ShardtuneError) or fault is not None:
        code, text = EXIT_USER, fault or str(error)
    else:
        code, text = EXIT_BUG, "".join(traceback.format_exception(error))
    print(text, file=sys.stderr)
    if folder is not None:
        failure = {"rank": global_rank(), "host": socket.gethostname(), "time": time.time(), "code": code, "text": text}
        failure_path(folder, global_rank()).write_text(json.dumps(failure), encoding="utf-8")
    return code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser("shardtune eval", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="a run directory")
    parser.add_argument("--data", action="append", required=True, help="labeled rows; may be given several times")
    parser.add_argument("--model", default="best", choices=("best", "last"), help="the exported model to evaluate")
    parser.add_argument("--predictions", type=Path, help="a JSON lines file to write, a line for each row")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="what to compute on")
    parser.add_argument("--prepare", type=Path, help="only read and encode the rows, into this folder")
    parser.add_argument("--prepared", type=Path, help="the folder in which the rows are prepared")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
