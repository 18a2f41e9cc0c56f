"""The Python side of the batch script slurm/finetune.sh: the beginning and the end of a start.

After `python -m shardtune.launcher.slurm.batch_job`:
`begin RECIPE_OR_RUN_DIR [key=value …]` prints settings for bash;
`end RUN_DIR --code=N --signals=…` prints `requeue`, and the nodes to exclude, if the job is to be requeued, or
`restart`, and settings for bash, if the ranks are to be started again in this job; it exits with the code of the job;
`layout FOLDER [job.key=value …]` prints the settings of a job that does not train.
"""

import argparse
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shardtune.counted import counted
from shardtune.errors import ShardtuneError, TakenOverError
from shardtune.launcher.plan.job import RankPlan, plan_ranks
from shardtune.launcher.plan.strategy import Nodes, settle_strategy
from shardtune.launcher.registry import remember
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.allocation import Allocation, find_allocation, parse_time
from shardtune.launcher.slurm.evidence import (
    culprit_of,
    gather,
    output_of,
    output_size,
    recipe_of,
    with_restart,
)
from shardtune.launcher.slurm.job_identity import user_of
from shardtune.launcher.slurm.lifecycle import (
    STATUS,
    Ending,
    Start,
    decide,
    ended,
    is_of_hardware,
    parse_status,
    parse_unfit,
    render_status,
    restarted,
)
from shardtune.launcher.slurm.stop_requests import (
    clear_requests,
    first_submission,
    fulfil_requests,
    is_asked_to_stop,
)
from shardtune.launcher.slurm.text import parse_node_list
from shardtune.launcher.start import execute
from shardtune.launcher.start.follow import first_failure, hung_ranks
from shardtune.recipe.load import machine_recipe
from shardtune.recipe.strategies import AUTO
from shardtune.run_dir.bad_nodes import keep_bad_nodes, may_be_excluded, read_bad_nodes
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_RESTART, EXIT_RESUME, EXIT_USER
from shardtune.run_dir.files import LEASE, is_finished, write_atomically
from shardtune.run_dir.launch_times import LAUNCHED_AT, QUEUED_AT
from shardtune.run_dir.lease import LEASE_TOKEN, OWNER_GRACE_S, refuse_if_lost, release, take_lease
from shardtune.run_dir.run import Run, find_run, write_run_dir
from shardtune.run_dir.trust import settle_trust
from shardtune.run_dir.view.results import finished_message


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the subcommands; returns the exit code."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    try:
        allocation = find_allocation()
        if arguments.command == "begin":
            print(
                begin(
                    arguments.path,
                    arguments.overrides,
                    allocation,
                    run_dir=arguments.run_dir,
                    is_trusted=arguments.trust,
                )
            )
            return EXIT_OK
        if arguments.command == "layout":
            print(layout(arguments.path, arguments.overrides, allocation))
            return EXIT_OK
        code, requeue = end(
            arguments.path,
            allocation,
            exit_code=arguments.code,
            signals=arguments.signals,
            is_preparation=arguments.preparation,
        )
        if requeue:
            print("requeue", nodes_to_exclude(arguments.path, allocation))
        elif code == EXIT_RESTART:
            print(f"restart\n{settings_of_restart(read_starts(arguments.path))}")
        return code
    except ShardtuneError as error:
        say(str(error))
        return EXIT_USER


def begin(
    path: Path,
    overrides: Sequence[str],
    allocation: Allocation,
    *,
    run_dir: Path | None = None,
    is_trusted: bool = False,
) -> str:
    """Takes the lease and prepares the run directory for this start; returns the settings of the batch script, as
    assignments. Raises CheckpointError, and has written nothing, if another start owns the run directory; LaunchError
    if another user's words would be executed."""
    run = find_run(path, overrides, run_dir)
    ranks = plan_ranks(run.recipe, allocation.machine)
    run = _settled(run, ranks, allocation)
    if not run.is_as_kept:
        settle_trust(run, overrides, is_trusted=is_trusted)
    lease = take_lease(run.run_dir / LEASE, allocation.job, pid=allocation.shell, patience_s=OWNER_GRACE_S, say=say)
    try:
        settings = _begin(run, ranks, replace(allocation, lease=lease.token))
    except BaseException:
        lease.close()
        raise
    lease.leave()  # to the batch shell
    return settings


def _settled(run: Run, ranks: RankPlan, allocation: Allocation) -> Run:
    """The run with a strategy in the place of engine.deepspeed: auto."""
    if run.recipe.engine.deepspeed != AUTO:
        return run
    here = execute.find_machine()
    nodes = Nodes(ranks.device, ranks.num_ranks, allocation.num_nodes, here.gpu_name, here.memory)
    run, text = settle_strategy(run, nodes)
    if text is not None:
        say(text)
    return run


def _begin(run: Run, ranks: RankPlan, allocation: Allocation) -> str:
    """The same, once the lease is held."""
    run_dir = run.run_dir
    write_run_dir(run)
    remember(run_dir)
    starts = read_starts(run_dir)
    first_submitted = first_submission(starts, allocation)
    clear_requests(run_dir, submitted=parse_time(first_submitted or "") or time.time())
    if starts and starts[-1].state == "running":
        starts[-1] = _end_of_previous(run_dir, starts[-1], allocation)
        say(f"the previous start ended without recording why; cause: {starts[-1].cause}")
    output = allocation.details.get("StdOut")
    start = Start(
        job=allocation.job,
        restart=allocation.restart,
        nodes=allocation.nodes,
        began=time.time(),
        output=output,
        output_bytes=output_size(output),
        cluster=allocation.cluster,
        user=user_of(allocation.details),
        submitted=allocation.details.get("SubmitTime"),
        first_submitted=first_submitted,
    )
    write_atomically(run_dir / STATUS, render_status([*starts, start]))
    num_ranks = ranks.num_ranks * allocation.num_nodes
    say(
        f"job {allocation.job}: {counted(num_ranks, 'rank')} on {ranks.device}, {ranks.num_ranks} on each of "
        f"{allocation.nodes}; run directory: {run_dir}"
    )
    finished, stopped = is_finished(run_dir), is_asked_to_stop(run_dir)
    settings = render_settings(run_dir, allocation, ranks, num_ranks, finished=finished, stopped=stopped)
    settings += f"\nexport {LAUNCHED_AT}={start.began:.3f}"
    if (queued_at := parse_time(start.submitted or "")) is not None:
        settings += f"\nexport {QUEUED_AT}={queued_at:.3f}"
    # With --no-kill, Slurm would leave a job alone whose batch script is lost with its node.
    guard = "" if allocation.num_nodes == 1 else "requeue" if run.recipe.job.max_requeues else "cancel"
    return f"{settings}\nguard={guard}"


def layout(folder: Path, overrides: Sequence[str], allocation: Allocation) -> str:
    """The settings of the batch script for ranks without a recipe. Raises ConfigError for an unknown job key."""
    ranks = plan_ranks(machine_recipe(overrides), allocation.machine)
    return render_settings(folder, allocation, ranks, ranks.num_ranks * allocation.num_nodes)


def render_settings(
    run_dir: Path,
    allocation: Allocation,
    ranks: RankPlan,
    num_ranks: int,
    *,
    finished: bool = False,
    stopped: bool = False,
) -> str:
    """Bash code that sets the variables of slurm/finetune.sh and the environment of the ranks."""
    settings = {
        "run_dir": str(run_dir),
        "finished": str(int(finished)),
        "stopped": str(int(stopped)),
        "device": ranks.device,
        "gpus_per_node": str(allocation.machine.num_gpus),
        "ranks_per_node": str(ranks.num_ranks),
        "num_ranks": str(num_ranks),
        "step_gpus": "" if allocation.step_gpus is None else str(allocation.step_gpus),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    environment = {**ranks.environment, **({LEASE_TOKEN: allocation.lease} if allocation.lease else {})}
    return "\n".join([*lines, *(f"export {name}={shlex.quote(value)}" for name, value in environment.items())])


def end(
    run_dir: Path, allocation: Allocation, *, exit_code: int, signals: str, is_preparation: bool = False
) -> tuple[int, bool]:
    """Records and reports how this start ended; returns the job's exit code, and whether to requeue it.

    `is_preparation`: it ended before its ranks were started, and has printed why.

    EXIT_RESTART: the job goes on, and the ranks are to be started again within it, as the last of read_starts() says.
    Otherwise the lease is released.
    """
    starts = read_starts(run_dir)
    # The newest one: each restart within a job is a start, and a controller that was set up anew counts from 1 again.
    own = [one for one in starts if (one.job, one.restart) == (allocation.job, allocation.restart)]
    start = own[-1] if own else None
    if start is None or start.ended is not None or _is_lost(run_dir, allocation.lease):
        say("another start took over this run directory (it believed this one dead); exiting")
        return EXIT_RESUME, False
    goes_on = False
    try:
        verdict = _end(
            run_dir, allocation, starts, start, exit_code=exit_code, signals=signals, is_preparation=is_preparation
        )
        goes_on = read_starts(run_dir)[-1].ended is None
        return verdict
    finally:
        if allocation.lease is not None and not goes_on:
            release(run_dir / LEASE, allocation.lease)


def _end(
    run_dir: Path,
    allocation: Allocation,
    starts: list[Start],
    start: Start,
    *,
    exit_code: int,
    signals: str,
    is_preparation: bool,
) -> tuple[int, bool]:
    """The same, while the lease is held."""
    _keep_bad_nodes(run_dir, start, allocation)
    seen = gather(
        run_dir,
        start,
        starts,
        allocation,
        exit_code=exit_code,
        signals=signals,
        taken_back=int(allocation.details.get("Restarts", "0")) > start.restart,
    )
    if seen.bad_nodes:
        seen = replace(seen, has_other_nodes=_has_other_nodes(allocation, [node for node, _ in seen.bad_nodes]))
    if exit_code and not seen.finished and not is_preparation:
        seen = with_restart(seen, run_dir, start, starts, allocation, signals)
    ending = decide(seen)
    now = time.time()
    starts[starts.index(start)] = ended(start, ending, seen, now)
    if ending.state == "restarting":
        starts.append(restarted(start, ending, now, output_size(start.output)))
    write_atomically(run_dir / STATUS, render_status(starts))
    if ending.cause == "stop":  # what was requested is done
        fulfil_requests(run_dir)
    if ending.cause in ("failure", "hang") and not is_preparation:
        return _report(run_dir, start, ending, exit_code, culprit_of(run_dir, start).text)
    return _report(run_dir, start, ending, exit_code)


def _report(run_dir: Path, start: Start, ending: Ending, exit_code: int, culprit: str = "") -> tuple[int, bool]:
    """Says how the start ended; returns what end() does."""
    say(ending.text)
    if ending.state == "finished":
        from shardtune.launcher.report.page import write_report  # and numpy, which nothing else here needs

        write_report(run_dir)
        say(finished_message(recipe_of(run_dir), run_dir, start.began))
        return EXIT_OK, False
    if ending.cause in ("failure", "hang"):
        for path in hung_ranks(run_dir, start.began):
            say(f"stack traces of a rank: {path}")
        if culprit:
            say(culprit)
        say(f"logs: {run_dir / 'logs'}")
    if ending.state == "restarting":
        return EXIT_RESTART, False
    if ending.state == "failed" and ending.cause in ("failure", "hang"):
        return exit_code, False
    return EXIT_RESUME, ending.requeue


def settings_of_restart(starts: Sequence[Start]) -> str:
    """Bash code for the restart within the job that the last of these starts records."""
    start = starts[-1]
    # srun would take these from the environment; they are about the nodes that the job began with.
    stale = "SLURM_NODELIST SLURM_NNODES SLURM_NTASKS SLURM_NPROCS SLURM_TASKS_PER_NODE SLURM_JOB_CPUS_PER_NODE"
    nodes = shlex.join(parse_node_list(start.nodes))
    return f"attempt={start.attempt}\ndelay={math.ceil(start.delay_s)}\nnodes=({nodes})\nunset {stale}"


def nodes_to_exclude(run_dir: Path, allocation: Allocation) -> str:
    """The nodes to exclude from the job's next start, separated by commas; empty if that does not change now."""
    start = read_starts(run_dir)[-1]
    bad = [entry.node for entry in read_bad_nodes(run_dir) if entry.job == allocation.job]
    if start.cause != "bad node" or not _has_other_nodes(allocation, bad):
        return ""
    return ",".join(dict.fromkeys([*_excluded(allocation), *bad]))


def read_starts(run_dir: Path) -> list[Start]:
    """The recorded starts of a run on a cluster, oldest first."""
    text = _text(run_dir / STATUS)
    return parse_status(text) if text else []


def say(text: str) -> None:
    """Prints a line to the job's output."""
    print(f"shardtune: {text}", file=sys.stderr, flush=True)


def _is_lost(run_dir: Path, lease: str | None) -> bool:
    """Whether another start owns the run directory by now."""
    try:
        if lease is not None:
            refuse_if_lost(run_dir / LEASE, lease)
    except TakenOverError:
        return True
    return False


def _end_of_previous(run_dir: Path, start: Start, allocation: Allocation) -> Start:
    """The previous start with its end, which its batch script had no time to record."""
    seen = gather(run_dir, start, [start], allocation, taken_back=start.job == allocation.job)
    if seen.cancelled is None and seen.taken_back:
        # Slurm reports the end in the job's output, unless the machine that would write it is down.
        seen = replace(seen, cancelled="node failure")
    return ended(start, decide(seen), seen, time.time())


def _keep_bad_nodes(run_dir: Path, start: Start, allocation: Allocation) -> None:
    """Records the nodes on which no rank could be started, or one failed because of its GPU.

    Only if job.exclude_bad_nodes is set.
    """
    job = recipe_of(run_dir).job
    if not job.exclude_bad_nodes or not job.max_requeues:
        return
    bad = parse_unfit(output_of(start))
    failure = first_failure(run_dir, start.began)
    if failure is not None and is_of_hardware(failure["text"]):
        bad[failure["host"].split(".")[0]] = "sick"
    if bad := may_be_excluded(bad, read_bad_nodes(run_dir), parse_node_list(allocation.nodes)):
        keep_bad_nodes(run_dir, bad, job=allocation.job)


def _has_other_nodes(allocation: Allocation, bad: Sequence[str]) -> bool:
    """Whether the partition has enough nodes without these and those that the job already excludes."""
    usable = cluster.usable_nodes(allocation.details.get("Partition", ""))
    return usable is None or len(usable - {*bad, *_excluded(allocation)}) >= allocation.num_nodes


def _excluded(allocation: Allocation) -> list[str]:
    return parse_node_list(allocation.details.get("ExcNodeList", ""))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m shardtune.launcher.slurm.batch_job", description=__doc__)
    parser.add_argument("command", choices=["begin", "end", "layout"])
    parser.add_argument("path", type=Path, metavar="RECIPE_OR_RUN_DIR")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--run-dir", type=Path, help="the run directory (default: runs/RECIPE-HASH)")
    parser.add_argument("--trust", action="store_true", help="accept the programs that the run directory names")
    parser.add_argument("--code", type=int, default=0, help="the exit code of the ranks")
    parser.add_argument("--preparation", action="store_true", help="the start ended before its ranks were started")
    parser.add_argument("--signals", default="", help="the signals that the batch script received")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
