"""Starts the ranks of commands that share rows, such as `eval` and `predict`: how many, on what, why they failed."""

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
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_OK, EXIT_USER
from shardtune.run_dir.files import CONFIG, SAID
from shardtune.run_dir.run import read_config

EVALUATE = "shardtune.trainer.commands.quality.evaluate"
PREDICT = "shardtune.trainer.commands.predict"


def plan_evaluation(wanted: str, machine: Machine, num_ranks: int | None) -> RankPlan:
    """The ranks that share rows: by default one for each GPU, or one without GPUs.

    `wanted` is the job.device of the run; one that was kept off the GPUs still is. Raises LaunchError if there are
    fewer GPUs than ranks, and ConfigError for no ranks.
    """
    has_none = not machine.num_gpus and machine.fault is None
    device = "cpu" if wanted == "cpu" or has_none else "auto"
    if num_ranks is None and device == "cpu":
        num_ranks = 1
    ranks = [] if num_ranks is None else [f"job.ranks={num_ranks}"]
    return plan_ranks(machine_recipe([f"job.device={device}", *ranks]), machine)


def device_of(path: Path) -> str:
    """The job.device of a run; auto for a model folder. Raises CheckpointError if the run's recipe is not readable."""
    return read_config(path).job.device if (path / CONFIG).is_file() else "auto"


def run_sharing(module: str, path: Path, words: Sequence[str], num_ranks: int | None, *, is_split: bool = False) -> int:
    """As run_prepared, on a run directory or a model folder. Raises CheckpointError or LaunchError."""
    return run_prepared(module, words, device_of(path), num_ranks, is_split=is_split)


def run_prepared(
    module: str, words: Sequence[str], wanted: str, num_ranks: int | None, *, is_split: bool = False
) -> int:
    """Runs a command of the trainer with these words on the ranks of plan_evaluation, and returns the exit code.

    Of several ranks, one first prepares with --prepare=FOLDER, and all then work with --prepared=FOLDER; a model that
    `is_split` over all GPUs has one process. Raises LaunchError.
    """
    machine = execute.find_machine()
    plan = plan_evaluation(wanted, machine, 1 if is_split else num_ranks)
    for text in machine.notices:
        print(text, file=sys.stderr)
    alone = (sys.executable, "-m", module, *words, f"--device={plan.device}")
    if plan.num_ranks == 1:
        split = ["--split-model"] if is_split else []
        return execute.run_ranks((*alone, *split), plan.environment)
    with tempfile.TemporaryDirectory(prefix="shardtune-ranks-") as folder:
        code = execute.run_ranks((*alone, f"--prepare={folder}"), plan.environment)
        if code != EXIT_OK:
            return code
        return start_ranks([module, *words, f"--device={plan.device}", f"--prepared={folder}"], plan, Path(folder))


def start_ranks(module: Sequence[str], plan: RankPlan, folder: Path) -> int:
    """Runs a module of the trainer, given with its arguments, on the ranks; says what they leave in the folder to be
    said, or why they fail, which they record there. Returns the exit code."""
    since, log_path = time.time(), folder / "logs" / "launcher.log"
    log_path.parent.mkdir()
    backend = BACKENDS["torchrun"]
    if execute.run_ranks(backend.argv(plan.num_ranks, module), plan.environment, log_path) == EXIT_OK:
        if (folder / SAID).is_file():
            print((folder / SAID).read_text(encoding="utf-8"), end="", file=sys.stderr)
        return EXIT_OK
    failure = first_failure(folder, since)
    exits = backend.parse_exits(log_path.read_text(encoding="utf-8", errors="replace"))
    outcome = StartOutcome(failure, exits, hung=[], silence_s=None)
    if failure is not None and failure["code"] == EXIT_USER and not outcome.killed:
        print(failure["text"], file=sys.stderr)  # what is wrong is the same on every rank
        return EXIT_USER
    print("\n".join(causes(outcome, log_path, "use fewer ranks (--ranks)")), file=sys.stderr)
    return EXIT_BUG
