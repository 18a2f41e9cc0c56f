"""Trains the unfinished points of a sweep: as a Slurm job array, or on this machine, one after another."""

import time
from collections.abc import Callable
from pathlib import Path

from shardtune.errors import LaunchError
from shardtune.launcher.plan.job import plan_job
from shardtune.launcher.plan.sweep import PREFIXES, SweepPlan, write_sweep
from shardtune.launcher.runs import monitor
from shardtune.launcher.runs.sweep_results import read_results
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.submission import plan_array
from shardtune.launcher.start import execute
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_OK
from shardtune.run_dir.files import is_finished
from shardtune.shell_line import shell_line

POLL_S = 5.0


def states_of(sweep: SweepPlan) -> dict[int, str]:
    """Point number -> its state as `shardtune status` names it; `new` before its directory exists."""
    jobs = cluster.queued_jobs()
    return {
        point.number: monitor.look_at(point.run_dir, jobs).state if point.run_dir.is_dir() else "new"
        for point in sweep.points
    }


def unfinished(sweep: SweepPlan) -> list[int]:
    """The numbers of the points to train or resume: those that are neither finished nor running or queued."""
    states = states_of(sweep)
    return [number for number, state in states.items() if state not in ("finished", *monitor.GOING_ON)]


def run_here(sweep: SweepPlan, say: Callable[[str], None]) -> int:
    """Trains the unfinished points on this machine; returns exit code 1 if any failed, after training the others.

    A signal that stops a point, such as Ctrl-C, ends the sweep; its exit code is then that of the point.
    """
    numbers, failed = unfinished(sweep), False
    write_sweep(sweep, numbers)
    for number in numbers:
        point = sweep.point(number)
        say(f"== {name_of(sweep, number)} of {len(sweep.points)}: {' '.join(point.overrides)}")
        signals: list[execute.Interrupt] = []
        code = execute.run_job(plan_job(point.run_dir, (), None, execute.find_machine()), signals)
        if signals:
            say(f"the sweep is stopped at {name_of(sweep, number)}; to resume: {sweep.to_resume}")
            return code
        failed = failed or code != EXIT_OK
    say(summary(sweep))
    return EXIT_BUG if failed else EXIT_OK


def name_of(sweep: SweepPlan, number: int) -> str:
    """What a point is called: `point 0` of a sweep, `run seed-1` of train.seeds."""
    return f"point {number}" if sweep.kind == "sweep" else f"run {PREFIXES[sweep.kind]}{number}"


def submit(sweep: SweepPlan, *, parallel: int | None) -> str | None:
    """Submits the unfinished points as a job array; returns its number, or None if no point is left.

    Raises LaunchError if Slurm refuses it.
    """
    nodes = cluster.find_nodes()
    if nodes is None:
        raise LaunchError(cluster.NO_SLURM)
    numbers = unfinished(sweep)
    if not numbers:
        return None
    cluster.try_submission(plan_array(sweep, numbers, nodes, parallel=parallel))
    with cluster.submitting(sweep.sweep_dir):
        numbers = unfinished(sweep)  # another command may have submitted them meanwhile
        if not numbers:
            return None
        return cluster.submit_sweep(sweep, numbers, plan_array(sweep, numbers, nodes, parallel=parallel))


def submit_or_wait(sweep: SweepPlan, say: Callable[[str], None], *, parallel: int | None, waits: bool) -> int:
    """Submits the unfinished points; with `waits`, or if none was left to submit, waits for all. Returns the exit
    code."""
    job = submit(sweep, parallel=parallel)
    if job is not None:
        say(f"job array {job}; sweep directory: {sweep.sweep_dir}\n{shell_line('report', sweep.sweep_dir)}")
    return wait(sweep, say) if job is None or waits else EXIT_OK


def wait(sweep: SweepPlan, say: Callable[[str], None]) -> int:
    """Waits until no point is running or queued; returns exit code 1 if one of them is not finished."""
    while any(state in monitor.GOING_ON for state in states_of(sweep).values()):
        time.sleep(POLL_S)
    say(summary(sweep))
    return EXIT_OK if all(is_finished(point.run_dir) for point in sweep.points) else EXIT_BUG


def summary(sweep: SweepPlan) -> str:
    """Writes the page with the points' curves, and results.json; returns their tables."""
    results = read_results(sweep, states_of(sweep))
    results.write()
    return f"{results.render()}\ncurves: {_shown(results.page)}"


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
