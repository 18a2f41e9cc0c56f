"""Writes rows in the base model's own words, as a source of data.train, on one rank or on many.

`python -m shardtune.trainer.commands.sampling.sample_base RECIPE --out=replay.jsonl --rows=N`. Row i is drawn from the
seed and i. With --prepare=FOLDER everything is checked, and with --prepared=FOLDER the ranks, under torchrun, write.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.errors import ConfigError, DataError
from shardtune.processes import run_piped
from shardtune.recipe.schema import Recipe
from shardtune.recipe.yaml_lines import write_yaml
from shardtune.trainer.checkpoint.base_model import identify
from shardtune.trainer.commands.inference.shared_command import PATIENCE, carry_out
from shardtune.trainer.commands.sampling.draws import Sampling
from shardtune.trainer.commands.sampling.replay_file import ReplayFile
from shardtune.trainer.commands.sampling.sources import Sampled, recipe_of
from shardtune.trainer.commands.sampling.writers import Drawn, Writer
from shardtune.trainer.distributed.meeting import meet
from shardtune.trainer.distributed.ranks import Ranks, connect, disconnect

SETTINGS = "settings.json"
BATCH_ROWS = {"cuda": 32, "cpu": 8}
"""Rows that are generated together: always the same ones, because the others in a batch change the last digits. A CPU
gains nothing from more."""
MOST_DRAWS, FEWEST_DRAWS = 10, 32
"""After so many draws for each row that is wanted, and so many more, the model is taken to have no more to say."""
TOP_P = 0.95


@dataclass(frozen=True)
class Amount:
    """How many rows are wanted, and of how many draws."""

    rows: int
    draws: int
    is_enough: bool
    """Whether fewer rows are no error: each prompt was to be drawn once."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command, or one rank of it, and returns its exit code."""
    transformers.utils.logging.disable_progress_bar()
    arguments = _parse(argv)
    return carry_out(_main, arguments, arguments.prepared)


def _main(arguments: argparse.Namespace) -> None:
    say = _say if arguments.prepared is None else _ignore
    recipe = recipe_of(arguments.recipe, arguments.overrides, say)
    sampled = Sampled(recipe, arguments.prompts, arguments.out, arguments.max_tokens, say)
    with ExitStack() as stack:
        folder = arguments.prepared
        if folder is None:
            folder = arguments.prepare or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            settings = _checked(arguments, sampled)
            (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
        if arguments.prepare is not None:
            return
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        sampling = Sampling(settings["seed"], settings["temperature"], settings["top-p"])
        amount = amount_of(arguments.rows, sampled.num_prompts, sampling)
        ranks = connect(arguments.device, store=meet(PATIENCE), timeout=PATIENCE)
        stack.callback(disconnect)
        writer = sampled.writer(sampling, ranks.device)
        file = ReplayFile(arguments.out, settings)
        sample(writer, file, amount, ranks)
        ranks.barrier()
    if ranks.is_zero:
        _report(file, amount, recipe)


def _checked(arguments: argparse.Namespace, sampled: Sampled) -> dict[str, Any]:
    """What decides the rows. Raises ConfigError or DataError for all that can be wrong before anything is computed."""
    if arguments.out.suffix != ".jsonl":
        raise DataError(f"--out: rows are JSON lines; name it {arguments.out.with_suffix('.jsonl')}")
    if not arguments.out.parent.is_dir():
        raise DataError(f"--out: there is no folder {arguments.out.parent}; make it, or name another one")
    sampled.refuse()
    temperature = arguments.temperature
    if temperature is None:
        temperature = 0.0 if sampled.recipe.task.kind == "translation" else 1.0
    amount_of(arguments.rows, sampled.num_prompts, Sampling(arguments.seed, temperature, arguments.top_p))
    settings = {
        "model": identify(sampled.recipe)["files"],
        "task": sampled.recipe.task.kind,
        "prompt rows": sampled.digest(),
        "temperature": temperature,
        "top-p": arguments.top_p,
        "max-tokens": sampled.max_tokens,
        "seed": arguments.seed,
    }
    ReplayFile(arguments.out, settings).resume()
    return settings


def amount_of(rows: int | None, num_prompts: int | None, sampling: Sampling) -> Amount:
    """How many rows are wanted. Raises ConfigError if that is not said, or cannot be had."""
    if num_prompts is None:
        if rows is None:
            raise ConfigError("--rows is missing: how many rows the base model is to write, as in --rows=1000")
        if sampling.temperature == 0:
            raise ConfigError("--temperature: at 0 all rows would be the same; raise it, or give --prompts")
    elif rows is None or sampling.temperature == 0:
        if rows is not None and rows > num_prompts:
            raise ConfigError(
                f"--rows: {rows:,} are wanted, but at temperature 0 each of the {counted(num_prompts, 'prompt')} gives "
                "one; lower it, or set --temperature"
            )
        return Amount(rows or num_prompts, num_prompts, is_enough=True)
    return Amount(rows, MOST_DRAWS * rows + FEWEST_DRAWS, is_enough=False)


def sample(writer: Writer, file: ReplayFile, amount: Amount, ranks: Ranks) -> None:
    """Collective: draws rows until there are enough, or no more are to be drawn; rank 0 writes them to the file.

    The file is continued if it exists. Raises DataError if it was begun otherwise.
    """
    if ranks.is_zero:
        file.resume()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not ranks.is_zero) as progress:
        shown = progress.add_task("sampling", total=amount.rows, completed=file.num_rows)
        while True:
            num_drawn, num_rows = ranks.from_zero((file.num_drawn, file.num_rows))
            if num_rows >= amount.rows or num_drawn >= amount.draws:
                return
            drawn = _draw_together(writer, num_drawn, amount.draws, ranks)
            if ranks.is_zero:
                file.add(drawn, at_most=amount.rows)
                progress.update(shown, completed=file.num_rows)


def _draw_together(writer: Writer, num_drawn: int, limit: int, ranks: Ranks) -> list[Drawn]:
    """Collective: on rank 0, the draws from number `num_drawn` on, of which each rank has made a batch."""
    size = BATCH_ROWS[ranks.device.type]
    first = (num_drawn // size + ranks.rank) * size
    rows = range(first, min(first + size, limit))
    mine = list(zip(rows, writer.write(rows), strict=True)) if rows else []
    return [drawn for of_rank in ranks.to_zero(mine) for row, drawn in of_rank if row >= num_drawn]


def _report(file: ReplayFile, amount: Amount, recipe: Recipe) -> None:
    """Says what was written, and how to train on it. Raises DataError if there are fewer rows than wanted."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in file.dropped.most_common())
    dropped = f" ({file.dropped.total():,} of {counted(file.num_drawn, 'draw')} dropped: {reasons})" if reasons else ""
    _say(f"{file.path}: {counted(file.num_rows, 'row')}{dropped}")
    if file.num_rows < amount.rows and (not amount.is_enough or not file.num_rows):
        raise DataError(
            f"{file.path}: {file.num_rows:,} of {counted(amount.rows, 'row')} after {counted(file.num_drawn, 'draw')}; "
            "raise --max-tokens if most are unfinished, --temperature or --top-p if most are repeated"
        )
    if file.num_cut:
        _say(f"{counted(file.num_cut, 'row')} cut at --max-tokens={file.settings['max-tokens']}")
    _say("\nTo train on it beside your own rows, add it to the list data.train of the recipe:\n")
    print(snippet(file.path, recipe))


def snippet(path: Path, recipe: Recipe) -> str:
    """The item of data.train that names the file: an entry of a YAML list, and what to know of it."""
    entry: dict[str, Any] = {"path": str(path), "name": "replay", "weight": 1.0}
    notes = ["weight 1: each row once in an epoch; 0.5: every other epoch"]
    if recipe.data.streaming:
        del entry["weight"]
        notes = ["a stream reads each row once: its rows are as many as the file has"]
    if recipe.data.columns:
        entry["columns"] = {}
        notes.append("columns: this file has shardtune's own names, not those of data.columns")
    if (format_ := getattr(recipe.task, "format", "auto")) not in ("auto", "messages"):
        notes.append(f"set task.format=auto, because {format_} would not find the messages")
    lines = write_yaml([entry]).rstrip().splitlines()
    return "\n".join([*(f"# {note}" for note in notes), *lines])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ignore(text: str) -> None:
    """What the ranks would say has been said while everything was checked."""


def _number(least: float, most: float, what: str) -> Any:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
        return value

    return number


def _above_zero(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser("shardtune sample-base", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a recipe, or a model folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the recipe")
    parser.add_argument("--out", type=Path, required=True, help="the JSON lines file to write")
    parser.add_argument("--rows", type=_above_zero, help="how many rows (default: one for each prompt)")
    parser.add_argument("--prompts", type=Path, help="rows of the task that are continued or answered")
    temperatures = _number(0, 100, "a number from 0 (the likeliest token) to 100")
    parser.add_argument("--temperature", type=temperatures, help="default: 1, for translation 0")
    parser.add_argument("--top-p", type=_number(1e-6, 1, "a number above 0, up to 1"), default=TOP_P)
    parser.add_argument("--max-tokens", type=_above_zero, help="the longest text (default: that of the recipe)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other rows")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="what to compute on")
    parser.add_argument("--prepare", type=Path, help="only check everything, and use this folder")
    parser.add_argument("--prepared", type=Path, help="the folder in which everything is checked")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    run_piped(main)
