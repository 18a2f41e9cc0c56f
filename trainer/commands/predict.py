"""Predicts with the model of a finished run, in one process.

`python -m shardtune.trainer.commands.predict RUN_DIR --text … | --file …`: one JSON object per line, in the order of
the input.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.errors import CheckpointError, DataError, ShardtuneError, system_fault
from shardtune.json_lines import json_line
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.rows.columns import plain
from shardtune.rows.source import Faults, Row, read_options, read_rows
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.run_dir.files import CONFIG, FACTS, MODEL
from shardtune.shell_line import shell_line
from shardtune.trainer.data.prepare.sources import with_named_columns
from shardtune.trainer.setup.precision import expected_precision
from shardtune.trainer.tasks import TASKS, Task, task_of
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.task import GeneratingTask

if TYPE_CHECKING:
    import torch

BATCH_ROWS, WINDOW_ROWS = 32, 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = OneLineParser("shardtune predict", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="a run directory")
    parser.add_argument("--text", action="append", default=[], help="a text to predict; may be given several times")
    parser.add_argument("--file", type=Path, help="a file of rows to predict, in any format of training data")
    parser.add_argument("--out", type=Path, help="the JSON lines file to write (default: standard output)")
    parser.add_argument("--model", default="best", choices=("best", "last"), help="the exported model to use")
    arguments = parser.parse_args(argv)
    try:
        if arguments.out is not None and arguments.out.suffix in (".csv", ".tsv", ".parquet"):
            raise DataError(f"--out: predictions are JSON lines; name it {arguments.out.with_suffix('.jsonl')}")
        recipe, folder, facts = find_model(arguments.run_dir, arguments.model)
        task_type = TASKS[recipe.task.kind]
        rows = [
            Row(task_type.text_row(text), Path("--text"), line) for line, text in enumerate(arguments.text, start=1)
        ]
        if arguments.file is not None:
            rows += read_inputs(arguments.file, recipe)
        faults = Faults()
        for row in rows:
            task_type.check_inputs(row, faults)
        faults.raise_if_any()
        if not rows:
            raise DataError("nothing to predict; give --text or --file")
        to_file = arguments.out is not None
        with arguments.out.open("w", encoding="utf-8") if to_file else nullcontext(sys.stdout) as out:
            _write(predict(recipe, folder, facts, rows, progress=to_file), rows, out)
        if to_file:
            print(f"{counted(len(rows), 'prediction')} written to {arguments.out}", file=sys.stderr)
    except ShardtuneError as error:
        print(error, file=sys.stderr)
        return EXIT_USER
    except OSError as error:
        if isinstance(error, BrokenPipeError) or (fault := system_fault(error, str(arguments.out))) is None:
            raise
        print(fault, file=sys.stderr)
        return EXIT_USER
    return EXIT_OK


def predict(
    recipe: Recipe, folder: Path, facts: Mapping[str, Any], rows: Sequence[Row], *, progress: bool = False
) -> Iterator[dict[str, Any]]:
    """A prediction for each row, in order, by the model exported to `folder`, on the first GPU if there is one."""
    from rich.console import Console
    from rich.progress import track

    task, model, tokenizer = open_model(recipe, folder, facts)
    starts: Sequence[int] = range(0, len(rows), WINDOW_ROWS)
    for start in track(starts, "predicting", console=Console(stderr=True), disable=not progress):
        window = rows[start : start + WINDOW_ROWS]
        yield from predict_window(task, model, tokenizer, window, recipe.data.max_tokens)


def predict_window(
    task: Task, model: Any, tokenizer: Any, rows: Sequence[Row], max_tokens: int
) -> Iterator[dict[str, Any]]:
    """A prediction for each row, in order; those of about the same length share a batch."""
    by_row = task.encode(rows, max_tokens, labeled=False)
    examples = [example for row_examples in by_row for example in row_examples]
    by_length = sorted(range(len(examples)), key=lambda at: len(examples[at]["input_ids"]))
    answers: dict[int, dict[str, Any]] = {}
    for first in range(0, len(by_length), BATCH_ROWS):
        chosen = by_length[first : first + BATCH_ROWS]
        answers |= zip(chosen, _answers(task, model, [examples[at] for at in chosen], tokenizer), strict=True)
    in_order = (answers[at] for at in range(len(examples)))
    for row, row_examples in zip(rows, by_row, strict=True):
        yield task.answer(row, row_examples, list(islice(in_order, len(row_examples))))


def open_model(
    recipe: Recipe, folder: Path, facts: Mapping[str, Any], device: "torch.device | None" = None
) -> tuple[Task, Any, Any]:
    """The task, the model exported to `folder`, and its tokenizer.

    The model is on the device, by default the first GPU if there is one. Adapters are added to their base model. Raises
    CheckpointError if the base model has changed, or the weights cannot be read.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    from shardtune.trainer.checkpoint.base_model import identify, read_base, refuse_another_base
    from shardtune.trainer.model.load import DTYPES
    from shardtune.trainer.model.lora import is_adapter, open_base, put_on
    from shardtune.trainer.model.pretrained import model_class
    from shardtune.trainer.model.quantized.loading import refuse_without_bitsandbytes

    transformers.utils.logging.disable_progress_bar()
    task, tokenizer, config = open_task(recipe, folder, facts)
    if is_adapter(folder):
        trained_on = read_base(folder)
        refuse_another_base(trained_on, identify(recipe), folder)
        refuse_without_bitsandbytes(recipe)
        base = open_base(
            recipe,
            model_class(config),
            config,
            dtype=DTYPES[expected_precision(recipe)],
            quantized=trained_on.get("quantized"),
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
        try:
            model = put_on(base, folder)
        except SafetensorError as error:
            raise CheckpointError(f"{folder}: its adapters cannot be read ({error}); export them again") from error
        if (folder / MODEL / "generation_config.json").is_file():
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder / MODEL)
    else:
        auto_model = getattr(transformers, task.auto_model)
        try:
            # Only safetensors: another file of weights, put in their place, would be unpickled.
            model = auto_model.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: its weights cannot be read ({error}); export the model again") from error
    return task, model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval(), tokenizer


def open_task(recipe: Recipe, folder: Path, facts: Mapping[str, Any]) -> tuple[Task, Any, Any]:
    """The task of the model exported to `folder`, with what its dev metrics tell, its tokenizer and its config."""
    import transformers

    from shardtune.trainer.model.load import calibrate
    from shardtune.trainer.model.lora import is_adapter

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    place = folder / MODEL if is_adapter(folder) else folder
    config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
    task = task_of(recipe, facts, tokenizer, config)
    calibrate(task, folder)
    return task, tokenizer, config


def _answers(task: Task, model: Any, examples: Sequence[Example], tokenizer: Any) -> list[dict[str, Any]]:
    import torch

    from shardtune.trainer.evaluation.generate import settings_of
    from shardtune.trainer.model.load import generate

    with torch.inference_mode():
        if not isinstance(task, GeneratingTask):
            batch = task.collate(examples).to(model.device)
            return task.predictions(model(**batch.plain_inputs), batch)
        inputs = {name: value.to(model.device) for name, value in task.collate_prompts(examples).items()}
        ids = generate(model, inputs, settings_of(task.generation, tokenizer))
        return [task.prediction(answer) for answer in tokenizer.batch_decode(ids, skip_special_tokens=True)]


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


def find_model(run_dir: Path, name: str) -> tuple[Recipe, Path, dict[str, Any]]:
    """A run's recipe, the folder of its `best` or `last` model, and its task's facts.

    Raises CheckpointError if it is not a run directory, or if the model is not exported yet.
    """
    if not (run_dir / CONFIG).is_file():
        raise CheckpointError(f"{run_dir}: not a run directory (no {CONFIG})")
    folder = run_dir / "export" / name
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist yet; `{shell_line('run', run_dir)}` resumes the run")
    recipe = parse_recipe((run_dir / CONFIG).read_text(encoding="utf-8"), name=str(run_dir / CONFIG))
    return recipe, folder, json.loads((run_dir / FACTS).read_text(encoding="utf-8"))


def _write(predictions: Iterator[dict[str, Any]], rows: Sequence[Row], out: TextIO) -> None:
    for row, prediction in zip(rows, predictions, strict=True):
        out.write(json_line({**row.values, "prediction": prediction}))


if __name__ == "__main__":
    sys.exit(main())
