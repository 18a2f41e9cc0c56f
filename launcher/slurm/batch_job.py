"""What the batch shell of slurm/finetune.sh asks of Python: how to begin, and what to do at the end.

With `python -m shardtune.launcher.slurm.batch_job` before it,
`begin RECIPE_OR_RUN_DIR [key=value …]` prints settings for bash;
`end RUN_DIR --code=N --signals=…` prints `requeue` if the job is to go on later, with the nodes that it is to leave,
and exits with the code that the job ends with;
`layout FOLDER [job.key=value …]` prints the settings of a job that does not train.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shardtune.errors import ShardtuneError
from shardtune.launcher.plan.job import RankPlan, plan_ranks
from shardtune.launcher.registry import remember
from shardtune.launcher.report.page import write_report
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.allocation import Allocation, find_allocation, parse_details, parse_time
from shardtune.launcher.slurm.lifecycle import (
    STATUS,
    STOP_REQUEST,
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
from shardtune.launcher.slurm.text import parse_node_list
from shardtune.launcher.start.follow import Events, first_failure, hung_ranks
from shardtune.launcher.start.restart import Failure, next_start
from shardtune.launcher.start.results import finished_message
from shardtune.recipe.load import machines_alone, parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.bad_nodes import keep_bad_nodes, read_bad_nodes, to_leave
from shardtune.run_dir.exit_codes import EXIT_ANEW, EXIT_OK, EXIT_RESUME, EXIT_USER
from shardtune.run_dir.files import CONFIG, RESULTS, STOP, write_atomically
from shardtune.run_dir.micro_batch_budget import read_budget
from shardtune.run_dir.run import find_run, write_run_dir

USR1_DETAILS = "logs/slurm-usr1.txt"
"""What scontrol said when the signal came."""
DEFAULT_LEAD_S = 300
"""That of the header of slurm/finetune.sh."""
SIGNAL_GRAIN_S = 90
"""Slurm may send the signal up to a minute earlier than it was asked to."""


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the batch shell asks; the exit code."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    try:
        allocation = find_allocation()
        if arguments.command == "begin":
            print(begin(arguments.path, arguments.overrides, allocation, run_dir=arguments.run_dir))
            return EXIT_OK
        if arguments.command == "layout":
            print(layout(arguments.path, arguments.overrides, allocation))
            return EXIT_OK
        code, requeue = end(arguments.path, allocation, exit_code=arguments.code, signals=arguments.signals)
        if requeue:
            print("requeue", nodes_to_leave(arguments.path, allocation))
        return code
    except ShardtuneError as error:
        say(str(error))
        return EXIT_USER


def begin(path: Path, overrides: Sequence[str], allocation: Allocation, *, run_dir: Path | None = None) -> str:
    """Makes the run directory ready for this start; the settings of the batch shell, as assignments."""
    run = find_run(path, overrides, run_dir)
    recipe, run_dir = run.recipe, run.run_dir
    ranks = plan_ranks(recipe, allocation.machine)
    write_run_dir(run)
    remember(run_dir)
    _clear(run_dir, started=parse_time(allocation.details.get("StartTime", "")) or time.time())
    starts = read_starts(run_dir)
    if starts and starts[-1].state == "running":
        starts[-1] = _end_of_the_last(run_dir, starts[-1], allocation)
        say(f"the start before this one has ended without a word; cause: {starts[-1].cause}")
    output = allocation.details.get("StdOut")
    start = Start(
        job=allocation.job,
        restart=allocation.restart,
        nodes=allocation.nodes,
        began=time.time(),
        output=output,
        output_bytes=Path(output).stat().st_size if output and Path(output).is_file() else 0,
    )
    write_atomically(run_dir / STATUS, render_status([*starts, start]))
    num_ranks = ranks.num_ranks * allocation.num_nodes
    say(
        f"job {allocation.job}: {num_ranks} ranks on {ranks.device}, {ranks.num_ranks} on each of {allocation.nodes}; "
        f"run directory: {run_dir}"
    )
    return render_settings(run_dir, allocation, ranks, num_ranks, finished=(run_dir / RESULTS).exists())


def layout(folder: Path, overrides: Sequence[str], allocation: Allocation) -> str:
    """The settings of the batch shell for ranks that have no recipe. Raises ConfigError for what is no key of job."""
    ranks = plan_ranks(machines_alone(overrides), allocation.machine)
    return render_settings(folder, allocation, ranks, ranks.num_ranks * allocation.num_nodes, finished=False)


def render_settings(run_dir: Path, allocation: Allocation, ranks: RankPlan, num_ranks: int, *, finished: bool) -> str:
    """Bash that sets the variables of slurm/finetune.sh and the environment of the ranks."""
    settings = {
        "run_dir": str(run_dir),
        "finished": str(int(finished)),
        "device": ranks.device,
        "gpus_per_node": str(allocation.machine.num_gpus),
        "ranks_per_node": str(ranks.num_ranks),
        "num_ranks": str(num_ranks),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    return "\n".join([*lines, *(f"export {name}={shlex.quote(value)}" for name, value in ranks.environment.items())])


def end(run_dir: Path, allocation: Allocation, *, exit_code: int, signals: str) -> tuple[int, bool]:
    """Writes down how this start has ended and says so; the job's exit code, and whether to put it back."""
    starts = read_starts(run_dir)
    start = next(its for its in starts if (its.job, its.restart) == (allocation.job, allocation.restart))
    if start.ended is not None:
        say("a later start has taken this one for dead, and the run directory over; this job ends")
        return EXIT_RESUME, False
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
        seen = replace(seen, others_are_there=_others_are_there(allocation, [node for node, _ in seen.bad_nodes]))
    ending = decide(seen)
    starts[starts.index(start)] = ended(start, ending, seen, time.time())
    write_atomically(run_dir / STATUS, render_status(starts))
    say(ending.text)
    match ending.state:
        case "finished":
            write_report(run_dir)
            say(finished_message(_recipe(run_dir), run_dir, start.began))
            return EXIT_OK, False
        case "failed" | "waiting" if ending.cause in ("failure", "hang"):
            for path in hung_ranks(run_dir, start.began):
                say(f"where a rank stood: {path}")
            if (failure := first_failure(run_dir, start.began)) is not None:
                say(f"rank {failure['rank']} on {failure['host']} failed first:\n{failure['text'].rstrip()}")
            say(f"logs: {run_dir / 'logs'}")
            return (EXIT_RESUME, True) if ending.requeue else (exit_code, False)
    return EXIT_RESUME, ending.requeue


def nodes_to_leave(run_dir: Path, allocation: Allocation) -> str:
    """The nodes that the job's next start is not to have, in Slurm's words; nothing if that does not change now."""
    start = read_starts(run_dir)[-1]
    found = [its.node for its in read_bad_nodes(run_dir) if its.job == allocation.job]
    if start.cause != "bad node" or not _others_are_there(allocation, found):
        return ""
    return ",".join(dict.fromkeys([*_excluded(allocation), *found]))


def read_starts(run_dir: Path) -> list[Start]:
    """The starts of the run on a cluster, oldest first."""
    text = _text(run_dir / STATUS)
    return parse_status(text) if text else []


def say(text: str) -> None:
    """A word to whoever reads the job's output."""
    print(f"shardtune: {text}", file=sys.stderr, flush=True)


def _clear(run_dir: Path, *, started: float) -> None:
    """Takes away what was meant for an earlier start."""
    for path in (run_dir / STOP, run_dir / STOP_REQUEST, run_dir / USR1_DETAILS):
        if path.exists() and path.stat().st_mtime < started:
            path.unlink(missing_ok=True)


def _end_of_the_last(run_dir: Path, start: Start, allocation: Allocation) -> Start:
    """A start whose batch shell had no time to say how it ended."""
    seen = _evidence(
        run_dir,
        start,
        [start],
        exit_code=0,
        warning=None,
        taken_back=start.job == allocation.job,
    )
    if seen.cancelled is None and seen.taken_back:
        # Slurm says a last word in the job's output, unless the machine that would write it is gone.
        seen = replace(seen, cancelled="node failure")
    return ended(start, decide(seen), seen, time.time())


def _warning(run_dir: Path) -> WarnedOf:
    """What the signal of --signal was sent for."""
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
    # A rank that is asked to stop before there is anything to save says so where others say what they died of.
    stopped |= failure is not None and failure.get("code") == EXIT_RESUME
    budget = read_budget(run_dir) if failure is not None and failure.get("code") == EXIT_ANEW else None
    hung = bool(hung_ranks(run_dir, start.began))
    has_stepped = first_step is not None and last_step is not None and last_step > first_step
    failures = [_failure(its) for its in starts if its.job == start.job and _was_put_back_after_failure(its)]
    fails_again = failure is not None and failure.get("code") == EXIT_USER
    this = Failure(last_step or 0, is_mishap=(hung or has_stepped) and not fails_again)
    return Evidence(
        finished=(run_dir / RESULTS).exists(),
        first_step=first_step,
        last_step=last_step,
        stopped=stopped,
        asked_by_user=(run_dir / STOP_REQUEST).exists(),
        warning=warning,
        taken_back=taken_back,
        cancelled=parse_cancellation(_output(start)),
        exit_code=exit_code,
        num_requeues=sum(
            its.state == "waiting" and its.cause == "time limit" and its.job == start.job for its in starts
        ),
        max_requeues=_recipe(run_dir).job.max_requeues,
        bad_nodes=tuple(
            (its.node, its.why) for its in read_bad_nodes(run_dir) if its.job == start.job and its.time >= start.began
        ),
        amended=str(budget) if budget is not None else None,
        hung=hung,
        anew=next_start([*failures, this], _recipe(run_dir).faults),
    )


def _keep_bad_nodes(run_dir: Path, start: Start, allocation: Allocation) -> None:
    """Writes down the nodes on which no rank could be started, or one has failed of its GPU, if the job is to leave
    such."""
    job = _recipe(run_dir).job
    if not job.exclude_bad_nodes or not job.max_requeues:
        return
    found = parse_unfit(_output(start))
    failure = first_failure(run_dir, start.began)
    if failure is not None and is_of_hardware(failure["text"]):
        found[failure["host"].split(".")[0]] = "sick"
    if found := to_leave(found, read_bad_nodes(run_dir), parse_node_list(allocation.nodes)):
        keep_bad_nodes(run_dir, found, job=allocation.job)


def _others_are_there(allocation: Allocation, bad: Sequence[str]) -> bool:
    """Whether the partition has enough nodes without these and without those that the job leaves already."""
    there = cluster.usable_nodes(allocation.details.get("Partition", ""))
    return there is None or len(there - {*bad, *_excluded(allocation)}) >= allocation.num_nodes


def _excluded(allocation: Allocation) -> list[str]:
    return parse_node_list(allocation.details.get("ExcNodeList", ""))


def _output(start: Start) -> str:
    """What the job has printed since it was started."""
    if start.output is None or not Path(start.output).is_file():
        return ""
    return Path(start.output).read_bytes()[start.output_bytes :].decode("utf-8", errors="replace")


def _was_put_back_after_failure(start: Start) -> bool:
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
    parser.add_argument("--run-dir", type=Path, help="where everything of the run goes")
    parser.add_argument("--code", type=int, default=0, help="what the ranks ended with")
    parser.add_argument("--signals", default="", help="those that the batch shell has got")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
