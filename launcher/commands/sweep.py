"""The words of the command line for sweeps: many runs of one recipe."""

import shlex
from pathlib import Path

from shardtune.launcher.commands.command import Command, refuse_values, refuse_words

HELP = """\
  shardtune sweep RECIPE [key=value …]      many runs of a recipe, as an array of Slurm jobs, or here one after another
      --grid optim.lr=1e-5,2e-5             a run for each value; given several times, for each combination
      --random=N                            so many drawn of them, and of ranges: --grid optim.lr=1e-6..1e-4
      --points=FILE                         a YAML list of runs: - {optim.lr: 1e-5, train.seed: 1}
      --parallel=N --local --wait --dry-run --write-only
  shardtune sweep SWEEP_DIR                 trains those of its runs that have failed, or were stopped, again
  shardtune report SWEEP_DIR                the table of its results, and a page with the curves
"""
MANY = ("--grid",)
"""Flags that may be given several times."""


def sweep(
    recipe: str,
    *overrides: str,
    grid: str | None = None,
    random: str | None = None,
    points: str | None = None,
    seed: str = "0",
    sweep_dir: str | None = None,
    parallel: str | None = None,
    local: str = "False",
    wait: str = "False",
    dry_run: str = "False",
    write_only: str = "False",
) -> Command:
    """Trains a recipe many times, with other values for some of its keys, and compares the results.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml, or the directory of a sweep to go on with.
        overrides: keys of the recipe that are the same for all runs.
        grid: key=A,B,C or, for --random, key=LOW..HIGH; may be given several times.
        random: how many points to draw from the grid, instead of all.
        points: a YAML file with a list of points.
        seed: of --random; the same seed draws the same points.
        sweep_dir: where all of them go; runs/RECIPE-sweep-HASH if not given.
        parallel: how many may run at a time, on a cluster.
        local: trains them here, one after another, though there is a Slurm.
        wait: waits for the array to end, then shows the table.
        dry_run: only shows the points.
        write_only: writes the points, for an sbatch of slurm/sweep.sh by hand.
    """
    refuse_values(local=local, wait=wait, dry_run=dry_run, write_only=write_only)
    refuse_words(random=random, seed=seed, parallel=parallel)
    axes = grid.split("\n") if grid else []

    def perform() -> int:
        from shardtune.errors import ConfigError
        from shardtune.launcher.plan import sweep as planning
        from shardtune.launcher.runs import sweep_queue
        from shardtune.launcher.slurm import cluster

        if Path(recipe).is_dir():
            if axes or points or random or overrides:
                raise ConfigError(f"{recipe} is a sweep already; its points stay as they are")
            its = planning.load_sweep(Path(recipe))
        else:
            if bool(axes) == bool(points):
                raise ConfigError(
                    "say what is to vary: --grid optim.lr=1e-5,2e-5 (any number of them), or --points=FILE"
                )
            if points:
                variations = planning.points_of(Path(points).read_text(encoding="utf-8"), name=points)
            elif random:
                variations = planning.drawn(axes, int(random), seed=int(seed))
            else:
                variations = planning.grid(axes)
            its = planning.plan_sweep(Path(recipe), overrides, Path(sweep_dir) if sweep_dir else None, variations)
        if dry_run == "True":
            print(its.describe())
            return 0
        if write_only == "True":
            planning.write_sweep(its)
            print(f"sbatch --array=0-{len(its.points) - 1} slurm/sweep.sh {shlex.quote(str(its.sweep_dir))}")
            return 0
        if local == "True" or cluster.find_nodes() is None:
            return sweep_queue.run_here(its, print)
        job = sweep_queue.submit(its, parallel=int(parallel) if parallel else None)
        if job is not None:
            print(f"job array {job}; everything goes to {its.sweep_dir}\nshardtune report {its.sweep_dir}")
        if job is None or wait == "True":
            return sweep_queue.wait(its, print)
        return 0

    return Command(perform)


def joined(words: list[str]) -> list[str]:
    """The words with all of a flag that may be given several times in one, a line each."""
    found: dict[str, list[str]] = {}
    others = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag in MANY:
            found.setdefault(flag, []).append(value if equals else next(rest, ""))
        else:
            others.append(word)
    return [*others, *(f"{flag}={chr(10).join(values)}" for flag, values in found.items())]
