"""The subcommands against forgetting: rows that the base model writes itself, and models between base and tuned one."""

from collections.abc import Sequence
from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.launcher.commands.command import Command, refuse_values, refuse_words
from shardtune.recipe.load import load_recipe, machine_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CONFIG

HELP = """\
What a model forgets (docs/forgetting.md):

  shardtune sample-base RECIPE --out=FILE   rows in the base model's own words, to train on beside your own (replay)
      --rows=N --prompts=FILE --ranks=N     also of a model folder; --temperature --top-p --max-tokens --seed
  shardtune blend RUN_DIR                   evaluate models between the base and the tuned one, export the best
      --alphas=0.3,0.5,0.7 --data=PATH      where between; labeled rows of another skill that count too
      --out=DIR --ranks=N --json
"""


def sample_base(
    recipe: str,
    *overrides: str,
    out: str | None = None,
    rows: str | None = None,
    prompts: str | None = None,
    temperature: str | None = None,
    top_p: str | None = None,
    max_tokens: str | None = None,
    seed: str = "0",
    ranks: str | None = None,
) -> Command:
    """Writes rows in the base model's own words, a source of data.train that keeps what it knows (docs/forgetting.md).

    An interrupted command, given again, continues. Row by row the same for the same seed, on any number of ranks.

    Args:
        recipe: a recipe, whose model.path writes in the form that its task reads; or a model folder.
        overrides: keys of the recipe, such as task.system="Be brief." (docs/recipe.md).
        out: the JSON lines file to write.
        rows: how many rows (default: one for each prompt).
        prompts: rows of the task, such as your own data, that the model continues or answers (default: none; for
            translation the training rows).
        temperature: the sampling temperature (default: 1; for translation 0); 0 always takes the likeliest token.
        top_p: samples only from the likeliest tokens that together have this probability (default: 0.95).
        max_tokens: the maximum length of what is written, in tokens (default: that of the recipe).
        seed: another seed gives other rows (default: 0).
        ranks: processes that share the rows (default: one for each GPU, or one without GPUs).
    """
    refuse_words(rows=rows, max_tokens=max_tokens, seed=seed, ranks=ranks)
    if out is None:
        line = "shardtune sample-base RECIPE --rows=1000 --out=replay.jsonl"
        raise ConfigError(f"shardtune: sample-base: --out is missing; write {line}")
    given = {
        "out": out,
        "rows": rows,
        "prompts": prompts,
        "temperature": temperature,
        "top-p": top_p,
        "max-tokens": max_tokens,
        "seed": seed,
    }
    words = [recipe, *overrides, *(f"--{name}={value}" for name, value in given.items() if value is not None)]

    def perform() -> int:
        from shardtune.launcher.start.evaluation import run_prepared

        module = "shardtune.trainer.commands.sampling.sample_base"
        return run_prepared(module, words, _recipe_of(Path(recipe), overrides).job.device, _number(ranks))

    return Command(perform)


def blend(
    run_dir: str,
    alphas: str = "0.3,0.5,0.7",
    out: str | None = None,
    data: str | None = None,
    ranks: str | None = None,
    json: str = "False",
) -> Command:
    """Evaluates models between the base of a run and its tuned one, base + alpha (tuned - base), and exports the best.

    Args:
        run_dir: the directory of a finished run.
        alphas: numbers from 0 (the base) to 1 (the tuned model), which are both evaluated in any case.
        out: the folder of the best model (default: RUN_DIR/export/blend).
        data: labeled rows of another skill, read as those of the run; what of it is kept counts too. May be given
            several times.
        ranks: processes that share the rows (default: one for each GPU, or one without GPUs).
        json: print a JSON object.
    """
    refuse_values(json=json)
    refuse_words(ranks=ranks)
    words = [run_dir, f"--alphas={alphas}", *(f"--data={path}" for path in (data.split("\n") if data else ()))]
    words += [f"--out={out}"] if out is not None else []
    words += ["--json"] if json == "True" else []

    def perform() -> int:
        from shardtune.launcher.start.evaluation import run_prepared
        from shardtune.run_dir.run import read_config

        return run_prepared(
            "shardtune.trainer.commands.blending.blend", words, read_config(Path(run_dir)).job.device, _number(ranks)
        )

    return Command(perform)


def _recipe_of(path: Path, overrides: Sequence[str]) -> Recipe:
    """The recipe in a file or a run directory; of a model folder, one that says on what to compute."""
    if path.is_dir() and not (path / CONFIG).is_file():
        return machine_recipe([override for override in overrides if override.startswith("job.")])
    return load_recipe(path / CONFIG if path.is_dir() else path, overrides, checks_paths=False)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
