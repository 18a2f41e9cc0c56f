"""Starts the ranks of `shardtune eval`, and of commands like it: how many, on what, and why they failed."""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from shardtune.launcher.plan.backends import BACKENDS
from shardtune.launcher.plan.job import Machine, RankPlan, plan_ranks
from shardtune.launcher.start import execute
from shardtune.launcher.start.exit_report import StartOutcome, causes
from shardtune.launcher.start.follow import first_failure
from shardtune.recipe.load import machine_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_OK, EXIT_USER
from shardtune.run_dir.run import read_config

MODULE = "shardtune.trainer.commands.quality.evaluate"


def plan_evaluation(recipe: Recipe, machine: Machine, num_ranks: int | None) -> RankPlan:
    """The ranks that evaluate a run of this recipe: by default one for each GPU, or one without GPUs.

    A run that was kept off the GPUs (job.device) still is. Raises LaunchError if there are fewer GPUs than ranks, and
    ConfigError for no ranks.
    """
    has_none = not machine.num_gpus and machine.fault is None
    device = "cpu" if recipe.job.device == "cpu" or has_none else "auto"
    if num_ranks is None and device == "cpu":
        num_ranks = 1
    ranks = [] if num_ranks is None else [f"job.ranks={num_ranks}"]
    return plan_ranks(machine_recipe([f"job.device={device}", *ranks]), machine)


def run_evaluation(run_dir: Path, words: Sequence[str], num_ranks: int | None) -> int:
    """Evaluates a run as these words ask, and returns the exit code. Raises CheckpointError or LaunchError."""
    return run_prepared(MODULE, words, read_config(run_dir), num_ranks)


def run_prepared(module: str, words: Sequence[str], recipe: Recipe, num_ranks: int | None) -> int:
    """Runs a module of the trainer with these words, on the ranks of plan_evaluation; returns its exit code.

    Of several ranks, one first prepares with --prepare=FOLDER, and all then work with --prepared=FOLDER. Raises
    LaunchError.
    """
    machine = execute.find_machine()
    plan = plan_evaluation(recipe, machine, num_ranks)
    for text in machine.notices:
        print(text, file=sys.stderr)
    alone = (sys.executable, "-m", module, *words, f"--device={plan.device}")
    if plan.num_ranks == 1:
        return execute.run_ranks(alone, plan.environment)
    with tempfile.TemporaryDirectory(prefix="shardtune-eval-") as folder:
        code = execute.run_ranks((*alone, f"--prepare={folder}"), plan.environment)
        return code if code != EXIT_OK else _run_ranks(module, words, plan, Path(folder))


def _run_ranks(module: str, words: Sequence[str], plan: RankPlan, folder: Path) -> int:
    """Runs the ranks on what is prepared in the folder; says why they fail."""
    since, log_path = time.time(), folder / "logs" / "launcher.log"
    log_path.parent.mkdir()
    backend = BACKENDS["torchrun"]
    started = [module, *words, f"--device={plan.device}", f"--prepared={folder}"]
    if execute.run_ranks(backend.argv(plan.num_ranks, started), plan.environment, log_path) == EXIT_OK:
        return EXIT_OK
    failure = first_failure(folder, since)
    exits = backend.parse_exits(log_path.read_text(encoding="utf-8", errors="replace"))
    outcome = StartOutcome(failure, exits, hung=[], silence_s=None)
    print("\n".join(causes(outcome, log_path, "use fewer ranks (--ranks)")), file=sys.stderr)
    return EXIT_USER if failure is not None and failure["code"] == EXIT_USER else EXIT_BUG
