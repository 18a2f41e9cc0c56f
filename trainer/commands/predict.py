"""Predicts with the model of a finished run, in one process or on several ranks.

`python -m shardtune.trainer.commands.predict RUN_DIR --text … | --file …`: one JSON object per line, in the order of
the input.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.errors import DataError
from shardtune.json_lines import json_line
from shardtune.processes import forget_output, run_piped
from shardtune.recipe.schema import Recipe
from shardtune.rows.columns import plain
from shardtune.rows.source import Faults, Row, read_options, read_rows
from shardtune.trainer.commands.inference.exported_model import find_model, open_model, open_task
from shardtune.trainer.commands.inference.predictions import WINDOW_ROWS, predict_together
from shardtune.trainer.commands.inference.row_file import read_rows_of, write_rows_of
from shardtune.trainer.commands.inference.shared_command import PATIENCE, add_rank_arguments, carry_out, say_at_end
from shardtune.trainer.data.prepare.sources import with_named_columns
from shardtune.trainer.distributed.meeting import meet
from shardtune.trainer.distributed.ranks import connect, disconnect
from shardtune.trainer.tasks import TASKS

__all__ = ["find_model", "main", "open_model", "open_task", "predict", "predict_together"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command, or one rank of it, and returns its exit code."""
    arguments = _parse(argv)
    return carry_out(_main, arguments, arguments.prepared, where=str(arguments.out))


def _main(arguments: argparse.Namespace) -> None:
    if arguments.out is not None and arguments.out.suffix in (".csv", ".tsv", ".parquet"):
        raise DataError(f"--out: predictions are JSON lines; name it {arguments.out.with_suffix('.jsonl')}")
    recipe, folder, facts = find_model(arguments.run_dir, arguments.model)
    rows = read_rows_of(arguments.prepared) if arguments.prepared is not None else _inputs(arguments, recipe)
    if arguments.prepare is not None:
        write_rows_of(arguments.prepare, rows)
        return
    if arguments.prepared is not None:
        _predict_as_rank(arguments, recipe, folder, facts, rows)
        return
    with ExitStack() as stack:
        out = sys.stdout
        if arguments.out is not None:
            out = stack.enter_context(arguments.out.open("w", encoding="utf-8"))
        found = predict(recipe, folder, facts, rows, progress=arguments.out is not None, is_split=arguments.split_model)
        for row, prediction in zip(rows, found, strict=True):
            out.write(_line(row, prediction))
    _say_how_many(arguments, len(rows))


def _predict_as_rank(
    arguments: argparse.Namespace, recipe: Recipe, folder: Path, facts: Mapping[str, Any], rows: Sequence[Row]
) -> None:
    """Collective: predicts the rows together with other ranks; rank 0 writes. All end once nobody reads that."""
    with ExitStack() as stack:
        ranks = connect(arguments.device, store=meet(PATIENCE), timeout=PATIENCE)
        stack.callback(disconnect)
        task, model, tokenizer = open_model(recipe, folder, facts, ranks.device)
        out = sys.stdout
        if arguments.out is not None and ranks.is_zero:
            out = stack.enter_context(arguments.out.open("w", encoding="utf-8"))
        written = 0
        for predictions in predict_together(task, model, tokenizer, rows, recipe.data.max_tokens, ranks):
            is_read = True
            try:
                for row, prediction in zip(rows[written:], predictions, strict=False):
                    out.write(_line(row, prediction))
                out.flush()
            except BrokenPipeError:
                forget_output()
                is_read = False
            written += len(predictions)
            if ranks.any(not is_read):
                return
        ranks.barrier()
        if ranks.is_zero:
            _say_how_many(arguments, written)


def predict(
    recipe: Recipe,
    folder: Path,
    facts: Mapping[str, Any],
    rows: Sequence[Row],
    *,
    progress: bool = False,
    is_split: bool = False,
) -> Iterator[dict[str, Any]]:
    """A prediction for each row, in order, by the model exported to `folder`, on the first GPU if there is one, or
    `is_split` over all GPUs."""
    task, model, tokenizer = open_model(recipe, folder, facts, is_split=is_split)
    found = predict_together(task, model, tokenizer, rows, recipe.data.max_tokens)
    num_windows = -(-len(rows) // WINDOW_ROWS)
    for predictions in track(
        found, "predicting", total=num_windows, console=Console(stderr=True), disable=not progress
    ):
        yield from predictions


def _inputs(arguments: argparse.Namespace, recipe: Recipe) -> list[Row]:
    """The rows to predict. Raises DataError if there are none, or if they lack what the model reads."""
    task_type = TASKS[recipe.task.kind]
    rows = [Row(task_type.text_row(text), Path("--text"), line) for line, text in enumerate(arguments.text, start=1)]
    if arguments.file is not None:
        rows += read_inputs(arguments.file, recipe)
    faults = Faults()
    for row in rows:
        task_type.check_inputs(row, faults)
    faults.raise_if_any()
    if not rows:
        raise DataError("nothing to predict; give --text or --file")
    return rows


def _line(row: Row, prediction: dict[str, Any]) -> str:
    return json_line({**row.values, "prediction": prediction})


def _say_how_many(arguments: argparse.Namespace, number: int) -> None:
    if arguments.out is not None:
        say_at_end(f"{counted(number, 'prediction')} written to {arguments.out}", arguments.prepared)


def read_inputs(path: Path, recipe: Recipe) -> list[Row]:
    """The rows of the file, with the columns that the model reads under shardtune's names.

    data.columns applies. The columns of single sources are only guesses, because the file may resemble any of them.
    """
    data, task = recipe.data, TASKS[recipe.task.kind]
    maps = [source.columns or {} for source in data.sources("train")]
    synonyms = {
        name: (
            *(plain(str(columns[name])) for columns in maps if name in columns),
            *(names if data.guess_columns else ()),
        )
        for name, names in task.column_guesses.items()
        if name in task.input_columns
    }
    chosen = {name: column for name, column in data.columns.items() if name in task.input_columns}
    # A file that is called like the training data is read like them.
    like = next((source for source in data.sources("train") if Path(source.path).suffix == path.suffix), None)
    options = read_options(like) if like is not None else None
    rows = read_rows(path, chosen, synonyms, lambda text: print(f"{path}: {text}", file=sys.stderr), options=options)
    return [with_named_columns(row, recipe) for row in rows]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser("shardtune predict", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="a run directory")
    parser.add_argument("--text", action="append", default=[], help="a text to predict; may be given several times")
    parser.add_argument("--file", type=Path, help="a file of rows to predict, in any format of training data")
    parser.add_argument("--out", type=Path, help="the JSON lines file to write (default: standard output)")
    parser.add_argument("--model", default="best", choices=("best", "last"), help="the exported model to use")
    add_rank_arguments(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_piped(main)
