"""The words of the command line for one recipe, or one run, on this machine."""

from pathlib import Path

from shardtune.launcher.commands.command import Command, refuse_values, refuse_words

HELP = """\
  shardtune run RECIPE [key=value …]        train, evaluate and export; the same command again goes on where it stood
      --run-dir=DIR                         where everything of the run goes (default: runs/RECIPE-HASH)
      --dry-run                             only show the plan: ranks, global batch, ds_config, command
      --fork=NEW_DIR                        begin a new run from that one's newest checkpoint, with a changed recipe
  shardtune plan RECIPE [key=value …]       the same as run --dry-run
  shardtune check RECIPE [key=value …]      the data as the loss sees them, token by token; nothing is trained (--json)
  shardtune prepare RECIPE [key=value …]    reads and tokenizes the data ahead of a run, which then finds them (--json)
  shardtune run RUN_DIR                     go on with a run
  shardtune predict RUN_DIR --text="…"      what the run's best model says; also --file=in.jsonl --out=out.jsonl
  shardtune chat RUN_DIR                    talks with the model of a chat; --system="…" --temperature=0 --model=last
  shardtune checkpoints RUN_DIR             what the run can go on from: step, metric, size, verified or not (--json)
  shardtune export RUN_DIR                  a checkpoint as a Hugging Face folder; --step=N --dtype=bf16 --out=DIR
      --merge-lora                          a run with model.lora as a whole model, else as adapters for peft
  shardtune report RUN_DIR                  writes RUN_DIR/report.html: curves, evaluations, config
  shardtune schema                          the JSON schema of recipes, for editors
"""


def run(
    recipe: str, *overrides: str, run_dir: str | None = None, fork: str | None = None, dry_run: str = "False"
) -> Command:
    """Trains a recipe on this machine, or goes on with a run directory.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml, or the directory of a run.
        overrides: keys of the recipe, such as optim.lr=2e-5 train.num_epochs=2 (docs/recipe.md).
        run_dir: where everything of the run goes; runs/RECIPE-HASH if not given.
        fork: a new run directory, which begins from the newest checkpoint of the other one; its recipe may differ.
        dry_run: only shows the plan.
    """
    refuse_values(dry_run=dry_run)

    def perform() -> int:
        from shardtune.launcher.plan.job import plan_job
        from shardtune.launcher.start import execute

        its_dir, new_dir = (Path(its) if its else None for its in (run_dir, fork))
        job = plan_job(Path(recipe), overrides, its_dir, execute.find_machine(), new_dir)
        if dry_run == "True":
            print(job.describe())
            return 0
        return execute.run_job(job)

    return Command(perform)


def plan(recipe: str, *overrides: str, run_dir: str | None = None) -> Command:
    """Shows what `shardtune run` would do with the same words; the same as its --dry-run.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml, or the directory of a run.
        overrides: keys of the recipe, such as optim.lr=2e-5 train.num_epochs=2 (docs/recipe.md).
        run_dir: where everything of the run would go; runs/RECIPE-HASH if not given.
    """
    return run(recipe, *overrides, run_dir=run_dir, dry_run="True")


def predict(
    run_dir: str, text: str | None = None, file: str | None = None, out: str | None = None, model: str = "best"
) -> Command:
    """Prints what the model of a run says, as one JSON object a row.

    Args:
        run_dir: the directory of a run.
        text: a text to judge.
        file: rows to judge, in any format that a recipe's data may have.
        out: writes the predictions there.
        model: best or last.
    """
    return _module("shardtune.trainer.commands.predict", run_dir, text=text, file=file, out=out, model=model)


def chat(
    run_dir: str,
    model: str = "best",
    system: str | None = None,
    max_new_tokens: str | None = None,
    temperature: str | None = None,
) -> Command:
    """Talks with the model of a run whose task is chat. Ctrl-C stops a reply, Ctrl-D leaves, /help says the rest.

    Args:
        run_dir: the directory of a run.
        model: best or last.
        system: the system text; that of the recipe if not given.
        max_new_tokens: the longest reply; that of the recipe if not given.
        temperature: how freely it speaks, 0.7 if not given; 0 always takes the likeliest token.
    """
    given = _options(model=model, system=system, max_new_tokens=max_new_tokens, temperature=temperature)

    def perform() -> int:
        from shardtune.launcher.start import execute

        return execute.run_interactive("shardtune.trainer.commands.chat", [run_dir, *given])

    return Command(perform)


def report(run_dir: str) -> Command:
    """Writes RUN_DIR/report.html: the curves and evaluations of a run so far, as one page; of a sweep, all of its runs.

    Args:
        run_dir: the directory of a run, or of a sweep.
    """

    def perform() -> int:
        from shardtune.errors import CheckpointError
        from shardtune.launcher.plan.sweep import SWEEP, load_sweep
        from shardtune.launcher.report.page import write_report
        from shardtune.run_dir.files import CONFIG

        if (Path(run_dir) / SWEEP).is_file():
            from shardtune.launcher.runs import sweep_queue

            print(sweep_queue.summary(load_sweep(Path(run_dir))))
            return 0
        if not (Path(run_dir) / CONFIG).is_file():
            raise CheckpointError(f"{run_dir}: not a run directory (there is no {CONFIG})")
        print(write_report(Path(run_dir)))
        return 0

    return Command(perform)


def check(recipe: str, *overrides: str, previews: str = "3", json: str = "False") -> Command:
    """Looks at a recipe and its data as the loss will see them, without training: counts, labels, lengths, duplicates,
    dropped rows, examples token by token, memory. Exit code 2 if anything is wrong.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml.
        overrides: keys of the recipe, such as data.max_tokens=128 (docs/recipe.md).
        previews: how many examples of each split are shown.
        json: prints all of it as one JSON object.
    """
    refuse_values(json=json)
    refuse_words(previews=previews)

    def perform() -> int:
        from shardtune.launcher.plan.job import plan_job
        from shardtune.launcher.start import execute

        job = plan_job(Path(recipe), overrides, None, execute.find_machine())
        given = [*_options(ranks=str(job.world_size), previews=previews), *_flags(json=json)]
        return execute.run_module("shardtune.trainer.commands.check", [recipe, *overrides, *given])

    return Command(perform)


def checkpoints(run_dir: str, json: str = "False", quick: str = "False") -> Command:
    """Lists the checkpoints of a run: step, metric, size, and whether every byte is as it was written.

    Args:
        run_dir: the directory of a run.
        json: prints all that is known of them as JSON.
        quick: only looks at the sizes of the files.
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
    """Writes a checkpoint as a Hugging Face folder: sharded safetensors, tokenizer, model card. Needs no GPU.

    Args:
        run_dir: the directory of a run.
        step: which checkpoint; the best one by dev that is there if not given.
        dtype: bf16, fp16 or fp32; that of the training if not given.
        out: the folder; RUN_DIR/export/step-N if not given.
        merge_lora: a whole model, to step-N-merged, where a run with model.lora is else exported as adapters for peft.
    """
    refuse_values(merge_lora=merge_lora)
    refuse_words(step=step)
    return _module(
        "shardtune.trainer.export.export", run_dir, *_flags(merge_lora=merge_lora), step=step, dtype=dtype, out=out
    )


def prepare(recipe: str, *overrides: str, json: str = "False") -> Command:
    """Reads and tokenizes a recipe's data ahead of its runs, on all cores of this machine: they then start at once.

    Says what it did. Where it was broken off it goes on, and machines with one file system that are all told to prepare
    the same share the work. Exit code 2 if anything is wrong with the data.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml.
        overrides: keys of the recipe, such as data.max_tokens=128 (docs/recipe.md).
        json: prints what was done as one JSON object: rows, examples, tokens, shards, path, seconds, tokens_per_s.
    """
    refuse_values(json=json)
    return _module("shardtune.trainer.commands.prepare", recipe, *overrides, *_flags(json=json))


def schema() -> Command:
    """Prints the JSON schema of recipes."""

    def perform() -> int:
        from shardtune.docs import render_json_schema

        print(render_json_schema())
        return 0

    return Command(perform)


def _module(name: str, *words: str, **values: str | None) -> Command:
    """Runs a module of the trainer, in a process of its own."""

    def perform() -> int:
        from shardtune.launcher.start import execute

        return execute.run_module(name, [*words, *_options(**values)])

    return Command(perform)


def _options(**values: str | None) -> list[str]:
    """`--step=3` for each that has a value."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]


def _flags(**given: str) -> list[str]:
    """`--json` for each that was given."""
    return [f"--{name.replace('_', '-')}" for name, value in given.items() if value == "True"]
