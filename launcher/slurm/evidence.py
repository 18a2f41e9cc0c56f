"""Gathers what a start of the ranks within a Slurm job has left behind: the facts by which its end is judged."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.allocation import Allocation, parse_details, parse_time
from shardtune.launcher.slurm.in_place import Situation, choose_place, lost_nodes
from shardtune.launcher.slurm.lifecycle import (
    Evidence,
    Start,
    WarnedOf,
    parse_cancellation,
    steps_of,
)
from shardtune.launcher.slurm.step_exits import (
    TAIL_LINES,
    Culprit,
    find_culprit,
    is_stop,
    output_tail,
    parse_lost_nodes,
    parse_node_exits,
    parse_rank_exits,
)
from shardtune.launcher.slurm.stop_requests import USR1_DETAILS, is_asked_to_stop
from shardtune.launcher.slurm.text import parse_node_list
from shardtune.launcher.start.exit_report import remedy_for_killed
from shardtune.launcher.start.follow import Events, failures_since, hung_ranks, newest_saved
from shardtune.launcher.start.restart import Failure, next_start
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.bad_nodes import read_bad_nodes
from shardtune.run_dir.exit_codes import EXIT_RESTART, EXIT_RESUME, EXIT_USER
from shardtune.run_dir.files import CONFIG, is_finished
from shardtune.run_dir.micro_batch_budget import read_budget

DEFAULT_LEAD_S = 300
"""The lead time in the header of slurm/finetune.sh."""
SIGNAL_GRAIN_S = 90
"""Slurm may send the signal up to a minute earlier than requested."""


def gather(
    run_dir: Path,
    start: Start,
    starts: Sequence[Start],
    allocation: Allocation,
    *,
    exit_code: int = 0,
    signals: str = "",
    taken_back: bool,
) -> Evidence:
    """What is known about a start that has ended; `starts` are all of the run, `signals` those of the batch script."""
    recipe = recipe_of(run_dir)
    first_step, last_step, stopped = steps_of(list(Events(run_dir, start.began).new()))
    output = output_of(start)
    exits = parse_rank_exits(output)
    # A rank that is asked to stop before there is anything to save records that as its failure.
    records = [
        record
        for record in failures_since(run_dir, start.began)
        if record.get("code") != EXIT_RESUME or is_stop(record, exits, was_signalled=bool(signals.strip()))
    ]
    code = records[0].get("code") if records else None
    budget = read_budget(run_dir) if code == EXIT_RESTART else None
    return Evidence(
        finished=is_finished(run_dir),
        first_step=first_step,
        last_step=last_step,
        stopped=stopped or code == EXIT_RESUME,
        asked_by_user=is_asked_to_stop(run_dir),
        warning=_warning(run_dir, allocation) if "USR1" in signals else None,
        taken_back=taken_back,
        cancelled=parse_cancellation(output),
        exit_code=exit_code,
        num_requeues=sum(
            one.state == "waiting" and one.cause == "time limit" and _is_same_job(one, start) for one in starts
        ),
        max_requeues=recipe.job.max_requeues,
        bad_nodes=tuple(
            (bad.node, bad.why) for bad in read_bad_nodes(run_dir) if bad.job == start.job and bad.time >= start.began
        ),
        amended=str(budget) if budget is not None else None,
        hung=bool(hung_ranks(run_dir, start.began)),
        stepped_before=any(_is_same_job_start(one, start) and one != start and _has_stepped(one) for one in starts),
        saved=newest_saved(run_dir),
    )


def with_restart(
    seen: Evidence,
    run_dir: Path,
    start: Start,
    starts: Sequence[Start],
    allocation: Allocation,
    signals: str,
) -> Evidence:
    """The evidence with whether, when and where the ranks may be restarted."""
    recipe, culprit = recipe_of(run_dir), culprit_of(run_dir, start)
    situation = _situation(seen, recipe, start, starts, allocation, culprit, signals)
    is_shrunk = len(situation.nodes) < len(situation.all_nodes)
    is_mishap = seen.hung or situation.has_stepped or culprit.is_killed or start.attempt > 0
    this = Failure(
        seen.last_step or 0, is_mishap and (is_shrunk or not situation.is_users_fault), saved=newest_saved(run_dir)
    )
    before = [
        Failure(one.last_step or 0, is_mishap=True, saved=one.saved)
        for one in starts
        if _is_same_job(one, start) and one.state in ("waiting", "restarting") and one.cause in ("failure", "hang")
    ]
    return replace(
        seen,
        restart=next_start([*before, this], recipe.faults),
        place=choose_place(situation),
        lost_nodes=tuple(lost_nodes(situation)),
    )


def culprit_of(run_dir: Path, start: Start) -> Culprit:
    """The rank or node that failed first in this start, with advice and the end of its log."""
    output = output_of(start)
    records = failures_since(run_dir, start.began)
    culprit = find_culprit(records, parse_rank_exits(output), parse_node_exits(output), output)
    if culprit.is_killed and culprit.rank is not None and "signal 9 " in culprit.text:
        recipe, budget = recipe_of(run_dir), read_budget(run_dir)
        remedy = remedy_for_killed(
            recipe.train.micro_batch_tokens, recipe.data.max_tokens, budget.tokens if budget else None
        )
        return replace(culprit, text=f"{culprit.text}; if dmesg says that memory ran out, {remedy}")
    if culprit.rank is None or culprit.is_killed:
        return culprit
    log = run_dir / "logs" / f"rank-{culprit.rank}.log"
    is_written = log.is_file() and log.stat().st_mtime >= start.began
    where = str(log) if is_written else "the output"
    tail = "\n".join(_text(log).splitlines()[-TAIL_LINES:]) if is_written else output_tail(output)
    return replace(culprit, text=f"{culprit.text}; the end of {where}:\n{tail}")


def output_of(start: Start) -> str:
    """The output of the job since this start."""
    if start.output is None or not Path(start.output).is_file():
        return ""
    return Path(start.output).read_bytes()[start.output_bytes :].decode("utf-8", errors="replace")


def output_size(path: str | None) -> int:
    """The length of a job's output so far, in bytes."""
    return Path(path).stat().st_size if path and Path(path).is_file() else 0


def recipe_of(run_dir: Path) -> Recipe:
    """The recipe of a run directory."""
    return parse_recipe(_text(run_dir / CONFIG), name=str(run_dir / CONFIG))


def _situation(
    seen: Evidence,
    recipe: Recipe,
    start: Start,
    starts: Sequence[Start],
    allocation: Allocation,
    culprit: Culprit,
    signals: str,
) -> Situation:
    first = next(one for one in starts if _is_same_job_start(one, start))
    all_nodes, nodes = parse_node_list(first.nodes), parse_node_list(start.nodes)
    gone = parse_lost_nodes(output_of(start)) | (cluster.silent_nodes(all_nodes) if len(all_nodes) > 1 else set())
    has_now = parse_node_list(allocation.details.get("NodeList", "")) or all_nodes
    ends = parse_time(allocation.details.get("EndTime", ""))
    return Situation(
        nodes=nodes,
        all_nodes=all_nodes,
        left=[node for node in all_nodes if node in has_now and node not in gone],
        on_lost_node=recipe.job.on_lost_node,
        is_warned=bool(signals.strip()) or seen.cancelled is not None or seen.asked_by_user,
        warned_in_s=None if ends is None else ends - time.time() - max(DEFAULT_LEAD_S, recipe.job.stop_lead_s),
        has_stepped=seen.amended is not None or _went_further(seen.first_step, seen.last_step),
        is_restart=start.attempt > 0,
        is_users_fault=culprit.code == EXIT_USER,
    )


def _warning(run_dir: Path, allocation: Allocation) -> WarnedOf:
    """The reason for the signal of --signal."""
    noted = run_dir / USR1_DETAILS
    # Before it knows the run directory, the batch script can note nothing: then Slurm's answer of now must do.
    details = parse_details(_text(noted)) or allocation.details
    received = noted.stat().st_mtime if noted.is_file() else time.time()
    if details.get("PreemptTime", "None") != "None":
        return "preemption"
    ends = parse_time(details.get("EndTime", ""))
    lead_s = max(DEFAULT_LEAD_S, recipe_of(run_dir).job.stop_lead_s)
    early = ends is None or ends - received > lead_s + SIGNAL_GRAIN_S
    return "signal" if early else "time limit"


def _is_same_job(one: Start, other: Start) -> bool:
    """Whether two starts are of one job; a controller that was set up anew gives its numbers again."""
    return (one.job, one.first_submitted) == (other.job, other.first_submitted)


def _is_same_job_start(one: Start, other: Start) -> bool:
    return _is_same_job(one, other) and one.restart == other.restart


def _has_stepped(start: Start) -> bool:
    return _went_further(start.first_step, start.last_step)


def _went_further(first_step: int | None, last_step: int | None) -> bool:
    return first_step is not None and last_step is not None and last_step > first_step


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
