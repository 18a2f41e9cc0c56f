"""The subcommands for one recipe, or one run, on this machine."""

from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.home import expand_home
from shardtune.launcher.commands.command import (
    Command,
    refuse_split_ranks,
    refuse_values,
    refuse_with_several,
    refuse_words,
    say_at_once,
)

HELP = """\
  shardtune run RECIPE [key=value …]        train, evaluate and export; the same command again resumes
      --run-dir=DIR                         the run directory (default: runs/RECIPE-HASH)
      --dry-run                             only print the plan: ranks, global batch, ds_config, command
      --fractions=0.1,0.3,1.0               train on parts of the rows: would more data help?
      --fork=NEW_DIR                        start NEW_DIR from the run's newest checkpoint; the recipe may differ
      --trust                               accept the programs that a run directory of another user names
  shardtune check RECIPE [key=value …]      check the data as the loss will see it, without training (--json)
  shardtune prepare RECIPE [key=value …]    read and tokenize the data ahead of a run (--json)
  shardtune run RUN_DIR                     resume a run
  shardtune predict RUN_DIR --text="…"      predict with the best model; also --file=in.jsonl --out=out.jsonl
      --ranks=N                             share the rows of the file; --split-model: one model over all GPUs
  shardtune chat RUN_DIR                    chat with the model; --system="…" --temperature=0 --model=last
  shardtune checkpoints RUN_DIR             list checkpoints: step, metric, size, integrity (--json)
  shardtune export RUN_DIR                  export a checkpoint for Hugging Face; --step=N --dtype=bf16 --out=DIR
      --merge-lora                          merge the LoRA adapters into the base model
  shardtune report RUN_DIR                  write RUN_DIR/report.html: results, curves, data, recipe
      RUN_DIR RUN_DIR …                     compare runs in comparison.html; means over seeds
      --format=markdown --out=FILE          for a pull request
  shardtune sync RUN_DIR …                  upload runs to Weights & Biases (--workspace: with its panels)
  shardtune schema                          print the JSON schema of recipes, for editors
"""


def run(
    recipe: str,
    *overrides: str,
    run_dir: str | None = None,
    fork: str | None = None,
    fractions: str | None = None,
    trust: str = "False",
    dry_run: str = "False",
) -> Command:
    """Trains a recipe on this machine, or resumes a run. With train.seeds, trains it once with each seed.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml, or a run directory.
        overrides: keys of the recipe, such as optim.lr=2e-5 train.num_epochs=2 (docs/recipe.md).
        run_dir: the run directory (default: runs/RECIPE-HASH).
        fork: a new run directory, which starts from the newest checkpoint of the run; the recipe may differ.
        fractions: train once on each of these fractions of the training rows, such as 0.1,0.3,1.0, and say whether more
            rows would help.
        trust: accept the programs and options that the run directory names, also if they are another user's words.
        dry_run: only print the plan.
    """
    refuse_values(dry_run=dry_run, trust=trust)

    def perform() -> int:
        from shardtune.launcher.plan.job import plan_job
        from shardtune.launcher.plan.several import plan_several
        from shardtune.launcher.runs import sweep_queue
        from shardtune.launcher.start import execute
        from shardtune.run_dir.trust import settle_trust

        folder, new_folder = (Path(path) if path else None for path in (run_dir, fork))
        several = plan_several(Path(recipe), overrides, folder, fractions)
        if several is not None:
            refuse_with_several(fork=fork is not None)
            if dry_run == "True":
                print(several.describe())
                return 0
            for point in several.points:
                settle_trust(several.run_of(point), overrides, is_trusted=trust == "True")
            return sweep_queue.run_here(several, print)
        job = plan_job(Path(recipe), overrides, folder, execute.find_machine(), new_folder)
        if dry_run == "True":
            print(job.describe())
            return 0
        settle_trust(job.run, overrides, is_trusted=trust == "True")
        return execute.run_job(job)

    return Command(perform)


def predict(
    run_dir: str,
    text: str | None = None,
    file: str | None = None,
    out: str | None = None,
    model: str = "best",
    ranks: str | None = None,
    split_model: str = "False",
) -> Command:
    """Prints the predictions of a run's model, one JSON object per row.

    Args:
        run_dir: a run directory.
        text: a single text to predict for.
        file: rows to predict for, in any format that a recipe's data may have.
        out: write the predictions to this file.
        model: best or last.
        ranks: processes that share the rows, each with the whole model (default: 1).
        split_model: divide a model that is too large for one GPU over all GPUs of this machine, in one process.
    """
    refuse_values(split_model=split_model)
    refuse_words(ranks=ranks)
    refuse_split_ranks(ranks, split_model)
    words = [run_dir, *_options(text=text, file=file, out=out, model=model)]
    if ranks is None and split_model == "False":
        return _module("shardtune.trainer.commands.predict", *words)

    def perform() -> int:
        from shardtune.launcher.start.evaluation import PREDICT, run_sharing

        number = None if ranks is None else int(ranks)
        return run_sharing(PREDICT, Path(run_dir), words, number, is_split=split_model == "True")

    return Command(perform)


def chat(
    run_dir: str,
    model: str = "best",
    system: str | None = None,
    max_new_tokens: str | None = None,
    temperature: str | None = None,
) -> Command:
    """Chats with the model of a run whose task is chat. Ctrl-C stops a reply, /exit ends it, /help lists the commands.

    Args:
        run_dir: a run directory.
        model: best or last.
        system: the system prompt (default: the recipe's).
        max_new_tokens: the maximum length of a reply (default: the recipe's).
        temperature: the sampling temperature (default: 0.7); 0 always takes the likeliest token.
    """
    given = _options(model=model, system=system, max_new_tokens=max_new_tokens, temperature=temperature)

    def perform() -> int:
        from shardtune.launcher.start import execute

        return execute.run_interactive("shardtune.trainer.commands.chat", [run_dir, *given])

    return Command(perform)


def report(run_dir: str, *run_dirs: str, format: str = "html", out: str | None = None) -> Command:
    """Writes RUN_DIR/report.html: the results, curves and settings of a run so far, or of all runs of a sweep; of
    several runs, comparison.html in this folder. As Markdown, for a pull request, it is printed.

    Args:
        run_dir: a run directory, or a sweep directory.
        run_dirs: more of them, to compare.
        format: html or markdown (default: html).
        out: write to this file.
    """

    def perform() -> int:
        from shardtune.launcher.runs.report_command import report_runs

        report_runs([Path(run_dir), *map(expand_home, run_dirs)], format, Path(out) if out else None)
        return 0

    return Command(perform)


def sync(*run_dirs: str, workspace: str = "False") -> Command:
    """Uploads runs to Weights & Biases: each becomes one W&B run, with all of its starts, also if it was offline or W&B
    failed. What is there already is not uploaded again.

    Args:
        run_dirs: run directories.
        workspace: also save a workspace with the panels of shardtune in the W&B project.
    """
    refuse_values(workspace=workspace)
    if not run_dirs:
        raise ConfigError("shardtune sync: which run directory? Give one or more")
    return _module("shardtune.trainer.commands.sync", *run_dirs, *_flags(workspace=workspace))


def check(recipe: str, *overrides: str, previews: str = "3", json: str = "False") -> Command:
    """Checks a recipe and its data as the loss will see it, without training: counts, labels, lengths, duplicates,
    dropped rows, examples token by token, memory. Exit code 2 if anything is wrong.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml.
        overrides: keys of the recipe, such as data.max_tokens=128 (docs/recipe.md).
        previews: how many examples of each split to show (default: 3).
        json: print everything as one JSON object.
    """
    refuse_values(json=json)
    refuse_words(previews=previews)

    def perform() -> int:
        from shardtune.launcher.plan.job import plan_job
        from shardtune.launcher.start import execute

        job = plan_job(Path(recipe), overrides, None, execute.find_machine())
        say_at_once(f"checking {recipe}")
        given = [*_options(ranks=str(job.world_size), previews=previews), *_flags(json=json)]
        settled = [] if job.strategy_notice is None else [f"engine.deepspeed={job.recipe.engine.deepspeed or 'null'}"]
        if job.strategy_notice is not None:
            say_at_once(job.strategy_notice)
        return execute.run_module("shardtune.trainer.commands.check", [recipe, *overrides, *settled, *given])

    return Command(perform)


def checkpoints(run_dir: str, json: str = "False", quick: str = "False") -> Command:
    """Lists the checkpoints of a run: step, metric, size, and whether every byte is as it was written.

    Args:
        run_dir: a run directory.
        json: print everything that is known about them as JSON.
        quick: check only the sizes of the files.
    """
    refuse_values(json=json, quick=quick)
    return _module("shardtune.trainer.commands.checkpoints", run_dir, *_flags(json=json, quick=quick))


def export(
    run_dir: str,
    step: str | None = None,
    dtype: str | None = None,
    out: str | None = None,
    merge_lora: str = "False",
) -> Command:
    """Exports a checkpoint as a Hugging Face folder: sharded safetensors, tokenizer, model card. Needs no GPU.

    Args:
        run_dir: a run directory.
        step: the step of the checkpoint (default: the best one on dev that is kept).
        dtype: bf16, fp16 or fp32 (default: that of the training).
        out: the output folder (default: RUN_DIR/export/step-N).
        merge_lora: merge the LoRA adapters into the base model (to step-N-merged) instead of exporting them for peft.
    """
    refuse_values(merge_lora=merge_lora)
    refuse_words(step=step)
    return _module(
        "shardtune.trainer.export.export", run_dir, *_flags(merge_lora=merge_lora), step=step, dtype=dtype, out=out
    )


def prepare(recipe: str, *overrides: str, json: str = "False") -> Command:
    """Reads and tokenizes a recipe's data ahead of its runs, on all cores of this machine.

    An interrupted preparation resumes where it stopped. Several machines that prepare the same recipe on a shared file
    system share the work. Exit code 2 if anything is wrong with the data.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml.
        overrides: keys of the recipe, such as data.max_tokens=128 (docs/recipe.md).
        json: print a summary as one JSON object: rows, examples, tokens, shards, path, seconds, tokens_per_s.
    """
    refuse_values(json=json)

    def perform() -> int:
        from shardtune.launcher.start import execute

        say_at_once(f"preparing the data of {recipe}")
        return execute.run_module("shardtune.trainer.commands.prepare", [recipe, *overrides, *_flags(json=json)])

    return Command(perform)


def schema() -> Command:
    """Prints the JSON schema of recipes."""

    def perform() -> int:
        from shardtune.docs import render_json_schema

        print(render_json_schema())
        return 0

    return Command(perform)


def _module(name: str, *words: str, **values: str | None) -> Command:
    """A command that runs a module of the trainer in a process of its own."""

    def perform() -> int:
        from shardtune.launcher.start import execute

        return execute.run_module(name, [*words, *_options(**values)])

    return Command(perform)


def _options(**values: str | None) -> list[str]:
    """`--step=3` for each argument that has a value."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]


def _flags(**given: str) -> list[str]:
    """`--json` for each flag that was given."""
    return [f"--{name.replace('_', '-')}" for name, value in given.items() if value == "True"]
