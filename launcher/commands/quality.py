"""The subcommands that measure how good trained models are."""

from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.launcher.commands.command import (
    Command,
    refuse_split_ranks,
    refuse_values,
    refuse_words,
    say_at_once,
)

HELP = """\
How good a model is:

  shardtune compare RUN_A RUN_B             which differences on the same test rows are more than chance (--json)
  shardtune eval RUN_DIR --data=PATH        evaluate the model on other labeled rows, on all GPUs; repeat --data
      MODEL_FOLDER --task=classification    the same for any model of transformers; key=value says how rows are read
      --predictions=out.jsonl               also write each row with its prediction, its loss and its place
      --model=last --ranks=N --json         --split-model: for a model that is too large for one GPU
  shardtune suspects RUN_DIR                list rows whose labels look wrong, or that the model cannot explain
      --folds=5                             judge each row by a model that was not trained on it
      --top=50 --out=suspects.jsonl --ranks=N --local
"""


def compare(run_a: str, run_b: str, json: str = "False") -> Command:
    """Compares two finished runs on the test rows that both have: paired bootstrap, McNemar's test (docs/quality.md).

    Args:
        run_a: a run directory.
        run_b: another one, whose recipe names the same test data.
        json: print a JSON object.
    """
    refuse_values(json=json)

    def perform() -> int:
        from shardtune.launcher.plan.sweep import refuse_sweep
        from shardtune.launcher.start import execute

        for run_dir in (run_a, run_b):
            refuse_sweep(Path(run_dir))
        flags = ["--json"] if json == "True" else []
        return execute.run_module("shardtune.trainer.commands.quality.compare", [run_a, run_b, *flags])

    return Command(perform)


def evaluate(
    run_dir: str,
    *overrides: str,
    data: str | None = None,
    task: str | None = None,
    model: str = "best",
    predictions: str | None = None,
    ranks: str | None = None,
    split_model: str = "False",
    json: str = "False",
) -> Command:
    """Evaluates a model on labeled rows; prints every metric with its 95 % interval.

    Args:
        run_dir: a run directory, or the folder of any model of transformers, also of adapters.
        overrides: how the rows are read, such as data.columns={label: stars} task.problem=regression.
        data: labeled rows: a file, a folder, a glob or hf:owner/name, as in data.test; may be given several times.
        task: what the model of a folder has learned, if that is not found there: classification, chat, …
        model: best or last, of a run directory.
        predictions: write a JSON line for each row to this file: its columns, prediction, loss and place.
        ranks: processes that share the rows (default: one for each GPU, or one without GPUs).
        split_model: divide a model that is too large for one GPU over all GPUs of this machine, in one process.
        json: print a JSON object.
    """
    refuse_values(json=json, split_model=split_model)
    refuse_words(ranks=ranks)
    if data is None:
        raise ConfigError("shardtune: eval: --data is missing; write shardtune eval RUN_DIR --data=PATH")
    refuse_split_ranks(ranks, split_model)
    words = [run_dir, *overrides, *(f"--data={path}" for path in data.split("\n")), f"--model={model}"]
    words += [f"--task={task}"] if task is not None else []
    words += [f"--predictions={predictions}"] if predictions is not None else []
    words += ["--json"] if json == "True" else []

    def perform() -> int:
        from shardtune.launcher.start.evaluation import EVALUATE, run_sharing

        number = None if ranks is None else int(ranks)
        return run_sharing(EVALUATE, Path(run_dir), words, number, is_split=split_model == "True")

    return Command(perform)


def suspects(
    run_dir: str,
    folds: str | None = None,
    top: str = "50",
    out: str | None = None,
    ranks: str | None = None,
    local: str = "False",
) -> Command:
    """Lists the rows of a run that look wrong to its model, by file and line: suspected label errors, or, where there
    are no labels, the rows with the highest loss (docs/quality.md).

    Args:
        run_dir: the directory of a finished run.
        folds: first train this many models, each without another part of the training rows, and judge each row by a
            model that was not trained on it.
        top: how many rows to show (default: 50).
        out: also write the suspicious rows to this file; they are in RUN_DIR/suspects.jsonl anyway.
        ranks: processes that share the rows (default: one for each GPU, or one without GPUs).
        local: train the folds here, one after another, even where Slurm is available.
    """
    refuse_values(local=local)
    refuse_words(folds=folds, top=top, ranks=ranks)
    words = [f"--top={top}", *([f"--out={out}"] if out is not None else [])]

    def perform() -> int:
        from shardtune.launcher.runs.suspects import list_suspects

        return list_suspects(
            Path(run_dir),
            words,
            num_folds=None if folds is None else int(folds),
            num_ranks=None if ranks is None else int(ranks),
            is_local=local == "True",
            say=say_at_once,
        )

    return Command(perform)
