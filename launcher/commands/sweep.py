"""The subcommand for sweeps: many runs of one recipe."""

import shlex
from pathlib import Path

from shardtune.launcher.commands.command import Command, refuse_values, refuse_words

HELP = """\
  shardtune sweep RECIPE [key=value …]      train a recipe many times: as a Slurm job array, or here in turn
      --grid optim.lr=1e-5,2e-5             one run per value; repeat it for all combinations
      --random=N                            N random points of the grid; ranges: --grid optim.lr=1e-6..1e-4
      --points=FILE                         a YAML list of runs: - {optim.lr: 1e-5, train.seed: 1}
      --parallel=N --local --wait --dry-run --write-only
  shardtune sweep SWEEP_DIR                 resume the runs that failed or were stopped
  shardtune report SWEEP_DIR                print the table of results and write a page with the curves
"""
MANY = ("--grid", "--data")
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
    trust: str = "False",
    dry_run: str = "False",
    write_only: str = "False",
) -> Command:
    """Trains a recipe many times with different values of some keys, and compares the results.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml, or the directory of a sweep to resume.
        overrides: keys of the recipe that are the same for all runs.
        grid: key=A,B,C or, for --random, key=LOW..HIGH; may be given several times.
        random: how many points to draw from the grid instead of taking all.
        points: a YAML file with a list of points.
        seed: the seed of --random (default: 0); the same seed draws the same points.
        sweep_dir: the directory of the sweep (default: runs/RECIPE-sweep-HASH).
        parallel: how many runs may train at the same time, on a cluster.
        local: train here, one run after another, even where Slurm is available.
        wait: wait until the job array has ended, then print the table.
        trust: accept the programs and options that the sweep directory names, also if they are another user's words.
        dry_run: only print the points.
        write_only: write the directories of the points, to submit slurm/sweep.sh by hand.
    """
    refuse_values(local=local, wait=wait, trust=trust, dry_run=dry_run, write_only=write_only)
    refuse_words(random=random, seed=seed, parallel=parallel)
    axes = grid.split("\n") if grid else []

    def perform() -> int:
        from shardtune.errors import ConfigError
        from shardtune.launcher.plan import sweep as planning
        from shardtune.launcher.runs import sweep_queue
        from shardtune.launcher.slurm import cluster
        from shardtune.recipe.load import read_yaml_file
        from shardtune.run_dir.trust import settle_trust

        if Path(recipe).is_dir():
            if axes or points or random or overrides:
                raise ConfigError(f"{recipe} is a sweep already, whose points are fixed; give a recipe for a new one")
            plan = planning.load_sweep(Path(recipe))
        else:
            if bool(axes) == bool(points):
                raise ConfigError(
                    "give the values to try: --grid optim.lr=1e-5,2e-5 (may be repeated), or --points=FILE"
                )
            if points:
                variations = planning.points_of(read_yaml_file(Path(points)), name=points)
            elif random:
                variations = planning.drawn(axes, int(random), seed=int(seed))
            else:
                variations = planning.grid(axes)
            plan = planning.plan_sweep(Path(recipe), overrides, Path(sweep_dir) if sweep_dir else None, variations)
        if dry_run == "True":
            print(plan.describe())
            return 0
        for point in plan.points:
            settle_trust(plan.run_of(point), (), is_trusted=trust == "True")
        if write_only == "True":
            planning.write_sweep(plan, sweep_queue.unfinished(plan))
            print(f"sbatch --array=0-{len(plan.points) - 1} slurm/sweep.sh {shlex.quote(str(plan.sweep_dir))}")
            return 0
        if local == "True" or cluster.find_nodes() is None:
            return sweep_queue.run_here(plan, print)
        return sweep_queue.submit_or_wait(
            plan, print, parallel=int(parallel) if parallel else None, waits=wait == "True"
        )

    return Command(perform)


def joined(words: list[str]) -> list[str]:
    """The arguments with repeated flags merged into one, whose value has a line for each."""
    repeated: dict[str, list[str]] = {}
    others = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag in MANY:
            repeated.setdefault(flag, []).append(value if equals else next(rest, ""))
        else:
            others.append(word)
    return [*others, *(f"{flag}={chr(10).join(values)}" for flag, values in repeated.items())]
