"""`shardtune suspects`: trains the folds that are asked for, and has the rows judged."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from shardtune.errors import CheckpointError
from shardtune.launcher.plan.folds import plan_folds
from shardtune.launcher.plan.sweep import SweepPlan
from shardtune.launcher.runs import sweep_queue
from shardtune.launcher.slurm import cluster
from shardtune.launcher.start import execute
from shardtune.launcher.start.evaluation import device_of, plan_evaluation, start_ranks
from shardtune.run_dir.exit_codes import EXIT_OK
from shardtune.run_dir.files import is_finished
from shardtune.run_dir.run import read_config
from shardtune.run_dir.trust import settle_trust
from shardtune.shell_line import shell_line

MODULE = "shardtune.trainer.commands.quality.suspects"


def list_suspects(
    run_dir: Path,
    words: Sequence[str],
    *,
    num_folds: int | None,
    num_ranks: int | None,
    is_local: bool,
    say: Callable[[str], None],
) -> int:
    """Lists the suspicious rows of a run as these words ask, and renews its report; returns the exit code.

    With folds, the models that have not been trained yet are trained first: as a Slurm job array, or, without Slurm or
    if it is to be local, here in turn. Raises CheckpointError if the run is not finished, ConfigError or LaunchError.
    """
    recipe = read_config(run_dir)
    if not is_finished(run_dir):
        raise CheckpointError(f"{run_dir} is not finished; `{shell_line('run', run_dir)}` resumes it")
    folds: list[Path] = []
    if num_folds is not None:
        sweep = plan_folds(run_dir, recipe, num_folds)
        folds = [point.run_dir for point in sweep.points]
        if not all(map(is_finished, folds)):
            say(f"training a model for each of {num_folds} folds in {sweep.sweep_dir}")
            if (code := _train(sweep, say, is_local=is_local)) != EXIT_OK:
                return code
    code = _judge(run_dir, [*words, *(f"--fold={fold}" for fold in folds)], num_ranks)
    if code == EXIT_OK:
        from shardtune.launcher.report.page import write_report  # and numpy, which nothing else here needs

        write_report(run_dir)
    return code


def _train(sweep: SweepPlan, say: Callable[[str], None], *, is_local: bool) -> int:
    """Trains the folds that are not finished; returns the exit code."""
    for point in sweep.points:
        settle_trust(sweep.run_of(point), ())
    if is_local or cluster.find_nodes() is None:
        return sweep_queue.run_here(sweep, say)
    if (job := sweep_queue.submit(sweep, parallel=None)) is not None:
        say(f"job array {job}")
    return sweep_queue.wait(sweep, say)


def _judge(run_dir: Path, words: Sequence[str], num_ranks: int | None) -> int:
    """Has the ranks judge the rows: by default one for each GPU, or one without GPUs."""
    machine = execute.find_machine()
    plan = plan_evaluation(device_of(run_dir), machine, num_ranks)
    for text in machine.notices:
        print(text, file=sys.stderr)
    module = [MODULE, str(run_dir), *words, f"--device={plan.device}"]
    if plan.num_ranks == 1:
        return execute.run_ranks((sys.executable, "-m", *module), plan.environment)
    with tempfile.TemporaryDirectory(prefix="shardtune-suspects-") as folder:
        return start_ranks([*module, f"--failures={folder}"], plan, Path(folder))
