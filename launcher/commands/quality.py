"""The subcommands that measure how good trained models are."""

from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.launcher.commands.command import Command, refuse_values, refuse_words

HELP = """\
How good a model is:

  shardtune compare RUN_A RUN_B             which differences on the same test rows are more than chance (--json)
  shardtune eval RUN_DIR --data=PATH        evaluate the model on other labeled rows, on all GPUs; repeat --data
      --predictions=out.jsonl               also write each row with its prediction, its loss and its place
      --model=last --ranks=N --json
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
    data: str | None = None,
    model: str = "best",
    predictions: str | None = None,
    ranks: str | None = None,
    json: str = "False",
) -> Command:
    """Evaluates the exported model of a run on labeled rows; prints every metric with its 95 % interval.

    Args:
        run_dir: a run directory.
        data: labeled rows: a file, a folder, a glob or hf:owner/name, as in data.test; may be given several times.
        model: best or last.
        predictions: write a JSON line for each row to this file: its columns, prediction, loss and place.
        ranks: processes that share the rows (default: one for each GPU, or one without GPUs).
        json: print a JSON object.
    """
    refuse_values(json=json)
    refuse_words(ranks=ranks)
    if data is None:
        raise ConfigError("shardtune: eval: --data is missing; write shardtune eval RUN_DIR --data=PATH")
    words = [run_dir, *(f"--data={path}" for path in data.split("\n")), f"--model={model}"]
    words += [f"--predictions={predictions}"] if predictions is not None else []
    words += ["--json"] if json == "True" else []

    def perform() -> int:
        from shardtune.launcher.start.evaluation import run_evaluation

        return run_evaluation(Path(run_dir), words, None if ranks is None else int(ranks))

    return Command(perform)
