"""The Python side of the batch script slurm/finetune.sh: the beginning and the end of a start.

After `python -m shardtune.launcher.slurm.batch_job`:
`begin RECIPE_OR_RUN_DIR [key=value …]` prints settings for bash;
`end RUN_DIR --code=N --signals=…` prints `requeue`, and the nodes to exclude, if the job is to be requeued, and exits
with the code of the job;
`layout FOLDER [job.key=value …]` prints the settings of a job that does not train.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shardtune.counted import counted
from shardtune.errors import ShardtuneError, TakenOverError
from shardtune.launcher.plan.job import RankPlan, plan_ranks
from shardtune.launcher.registry import remember
from shardtune.launcher.report.page import write_report
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.allocation import Allocation, find_allocation, parse_details, parse_time
from shardtune.launcher.slurm.job_identity import user_of
from shardtune.launcher.slurm.lifecycle import (
    STATUS,
    Evidence,
    Start,
    WarnedOf,
    decide,
    ended,
    is_of_hardware,
    parse_cancellation,
    parse_status,
    parse_unfit,
    render_status,
    steps_of,
)
from shardtune.launcher.slurm.stop_requests import (
    USR1_DETAILS,
    clear_requests,
    first_submission,
    fulfil_requests,
    is_asked_to_stop,
)
from shardtune.launcher.slurm.text import parse_node_list
from shardtune.launcher.start.follow import Events, first_failure, hung_ranks
from shardtune.launcher.start.restart import Failure, next_start
from shardtune.recipe.load import machine_recipe, parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.bad_nodes import keep_bad_nodes, may_be_excluded, read_bad_nodes
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_RESTART, EXIT_RESUME, EXIT_USER
from shardtune.run_dir.files import CONFIG, LEASE, is_finished, write_atomically
from shardtune.run_dir.lease import LEASE_TOKEN, OWNER_GRACE_S, refuse_if_lost, release, take_lease
from shardtune.run_dir.micro_batch_budget import read_budget
from shardtune.run_dir.run import Run, find_run, write_run_dir
from shardtune.run_dir.trust import settle_trust
from shardtune.run_dir.view.results import finished_message

DEFAULT_LEAD_S = 300
"""The lead time in the header of slurm/finetune.sh."""
SIGNAL_GRAIN_S = 90
"""Slurm may send the signal up to a minute earlier than requested."""


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
        code, requeue = end(arguments.path, allocation, exit_code=arguments.code, signals=arguments.signals)
        if requeue:
            print("requeue", nodes_to_exclude(arguments.path, allocation))
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
        output_bytes=Path(output).stat().st_size if output and Path(output).is_file() else 0,
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
    finished = is_finished(run_dir)
    return render_settings(run_dir, allocation, ranks, num_ranks, finished=finished, stopped=is_asked_to_stop(run_dir))


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
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    environment = {**ranks.environment, **({LEASE_TOKEN: allocation.lease} if allocation.lease else {})}
    return "\n".join([*lines, *(f"export {name}={shlex.quote(value)}" for name, value in environment.items())])


def end(run_dir: Path, allocation: Allocation, *, exit_code: int, signals: str) -> tuple[int, bool]:
    """Records and reports how this start ended, and releases the lease; returns the job's exit code, and whether to
    requeue it."""
    starts = read_starts(run_dir)
    # The newest one: a controller that was set up anew counts its jobs from 1 again.
    own = [one for one in starts if (one.job, one.restart) == (allocation.job, allocation.restart)]
    start = own[-1] if own else None
    if start is None or start.ended is not None or _is_lost(run_dir, allocation.lease):
        say("another start took over this run directory (it believed this one dead); exiting")
        return EXIT_RESUME, False
    try:
        return _end(run_dir, allocation, starts, start, exit_code=exit_code, signals=signals)
    finally:
        if allocation.lease is not None:
            release(run_dir / LEASE, allocation.lease)


def _end(
    run_dir: Path, allocation: Allocation, starts: list[Start], start: Start, *, exit_code: int, signals: str
) -> tuple[int, bool]:
    """The same, while the lease is held."""
    _keep_bad_nodes(run_dir, start, allocation)
    seen = _evidence(
        run_dir,
        start,
        starts,
        exit_code=exit_code,
        warning=_warning(run_dir) if "USR1" in signals else None,
        taken_back=int(allocation.details.get("Restarts", "0")) > start.restart,
    )
    if seen.bad_nodes:
        seen = replace(seen, has_other_nodes=_has_other_nodes(allocation, [node for node, _ in seen.bad_nodes]))
    ending = decide(seen)
    starts[starts.index(start)] = ended(start, ending, seen, time.time())
    write_atomically(run_dir / STATUS, render_status(starts))
    if ending.cause == "stop":  # what was requested is done
        fulfil_requests(run_dir)
    say(ending.text)
    match ending.state:
        case "finished":
            write_report(run_dir)
            say(finished_message(_recipe(run_dir), run_dir, start.began))
            return EXIT_OK, False
        case "failed" | "waiting" if ending.cause in ("failure", "hang"):
            for path in hung_ranks(run_dir, start.began):
                say(f"stack traces of a rank: {path}")
            if (failure := first_failure(run_dir, start.began)) is not None:
                say(f"rank {failure['rank']} on {failure['host']} failed first:\n{failure['text'].rstrip()}")
            say(f"logs: {run_dir / 'logs'}")
            return (EXIT_RESUME, True) if ending.requeue else (exit_code, False)
    return EXIT_RESUME, ending.requeue


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
    seen = _evidence(
        run_dir,
        start,
        [start],
        exit_code=0,
        warning=None,
        taken_back=start.job == allocation.job,
    )
    if seen.cancelled is None and seen.taken_back:
        # Slurm reports the end in the job's output, unless the machine that would write it is down.
        seen = replace(seen, cancelled="node failure")
    return ended(start, decide(seen), seen, time.time())


def _warning(run_dir: Path) -> WarnedOf:
    """The reason for the signal of --signal."""
    details = parse_details(_text(run_dir / USR1_DETAILS))
    if details.get("PreemptTime", "None") != "None":
        return "preemption"
    ends = parse_time(details.get("EndTime", ""))
    lead_s = max(DEFAULT_LEAD_S, _recipe(run_dir).job.stop_lead_s)
    early = ends is None or ends - (run_dir / USR1_DETAILS).stat().st_mtime > lead_s + SIGNAL_GRAIN_S
    return "signal" if early else "time limit"


def _evidence(
    run_dir: Path, start: Start, starts: Sequence[Start], *, exit_code: int, warning: WarnedOf | None, taken_back: bool
) -> Evidence:
    first_step, last_step, stopped = steps_of(list(Events(run_dir, start.began).new()))
    failure = first_failure(run_dir, start.began)
    # A rank that is asked to stop before there is anything to save records that as its failure.
    stopped |= failure is not None and failure.get("code") == EXIT_RESUME
    budget = read_budget(run_dir) if failure is not None and failure.get("code") == EXIT_RESTART else None
    hung = bool(hung_ranks(run_dir, start.began))
    has_stepped = first_step is not None and last_step is not None and last_step > first_step
    of_job = [one for one in starts if (one.job, one.first_submitted) == (start.job, start.first_submitted)]
    failures = [_failure(one) for one in of_job if _was_requeued_after_failure(one)]
    fails_again = failure is not None and failure.get("code") == EXIT_USER
    this = Failure(last_step or 0, is_mishap=(hung or has_stepped) and not fails_again)
    return Evidence(
        finished=is_finished(run_dir),
        first_step=first_step,
        last_step=last_step,
        stopped=stopped,
        asked_by_user=is_asked_to_stop(run_dir),
        warning=warning,
        taken_back=taken_back,
        cancelled=parse_cancellation(_output(start)),
        exit_code=exit_code,
        num_requeues=sum(one.state == "waiting" and one.cause == "time limit" for one in of_job),
        max_requeues=_recipe(run_dir).job.max_requeues,
        bad_nodes=tuple(
            (bad.node, bad.why) for bad in read_bad_nodes(run_dir) if bad.job == start.job and bad.time >= start.began
        ),
        amended=str(budget) if budget is not None else None,
        hung=hung,
        restart=next_start([*failures, this], _recipe(run_dir).faults),
    )


def _keep_bad_nodes(run_dir: Path, start: Start, allocation: Allocation) -> None:
    """Records the nodes on which no rank could be started, or one failed because of its GPU.

    Only if job.exclude_bad_nodes is set.
    """
    job = _recipe(run_dir).job
    if not job.exclude_bad_nodes or not job.max_requeues:
        return
    bad = parse_unfit(_output(start))
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


def _output(start: Start) -> str:
    """The output of the job since this start."""
    if start.output is None or not Path(start.output).is_file():
        return ""
    return Path(start.output).read_bytes()[start.output_bytes :].decode("utf-8", errors="replace")


def _was_requeued_after_failure(start: Start) -> bool:
    return start.state == "waiting" and start.cause in ("failure", "hang")


def _failure(start: Start) -> Failure:
    return Failure(start.last_step or 0, is_mishap=True)


def _recipe(run_dir: Path) -> Recipe:
    return parse_recipe(_text(run_dir / CONFIG), name=str(run_dir / CONFIG))


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
    parser.add_argument("--signals", default="", help="the signals that the batch script received")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
