"""How a start of a job has ended, what for, and whether the job goes back into the queue. Pure, and so are its words.

RUN_DIR/status.json holds the starts of a run on a cluster; it is what `shardtune status` shows of those that are gone.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from shardtune.launcher.start.restart import GiveUp, Restart
from shardtune.run_dir.exit_codes import EXIT_RESUME

WarnedOf = Literal["time limit", "preemption", "signal"]
"""What the signal of --signal was sent for; `signal`: by a person, with scancel --batch --signal=USR1."""
Cause = Literal[
    "finished",
    "time limit",
    "preemption",
    "signal",
    "node failure",
    "requeue",
    "memory",
    "bad node",
    "hang",
    "scancel",
    "stop",
    "failure",
    "unknown",
]
State = Literal["running", "waiting", "stopped", "failed", "finished"]
"""waiting: the job is in the queue again. stopped: it is not, and the run has not come to its end."""

NO_NEW_START = GiveUp("")
STATUS = "status.json"
STOP_REQUEST = "stop_request.json"
"""Says that it was a person who asked for the stop; the job then stays out of the queue."""

_SLURM_CAUSES: dict[str, Cause] = {
    "TIME LIMIT": "time limit",
    "PREEMPTION": "preemption",
    "NODE FAILURE": "node failure",
    "JOB REQUEUE": "requeue",
}


@dataclass(frozen=True)
class Start:
    """One start of a job in a run directory. Times are seconds since the epoch."""

    job: str
    restart: int
    """How often Slurm had started the job before."""
    nodes: str
    began: float
    output: str | None
    """The file that has what the job prints."""
    output_bytes: int
    """How long that was when it began: a restarted job goes on in the same file."""
    ended: float | None = None
    state: State = "running"
    cause: Cause | None = None
    first_step: int | None = None
    last_step: int | None = None
    """Of the training; None where it did not come so far."""


@dataclass(frozen=True)
class Evidence:
    """What can be known of a start that has ended."""

    finished: bool
    """The run's results are there."""
    first_step: int | None
    """Where its training began; None if it did not."""
    last_step: int | None
    stopped: bool
    """The ranks have saved a checkpoint and stopped as they were asked to."""
    asked_by_user: bool
    warning: WarnedOf | None
    """What Slurm sent the signal of --signal for, if it did."""
    cancelled: Cause | None
    """Why Slurm ended it, if it did."""
    taken_back: bool
    """Slurm has put the job into the queue again by itself."""
    exit_code: int
    num_requeues: int
    """How often the job has been put back because of its time limit."""
    max_requeues: int
    bad_nodes: tuple[tuple[str, str], ...] = ()
    """(node, why) of those that it has found out to be better left, as it was asked to."""
    others_are_there: bool = True
    """There are enough nodes without them."""
    amended: str | None = None
    """How the next start will do with less memory, if this one was short of it and has written that down."""
    hung: bool = False
    """Ranks that made no progress have said where they stood, and ended."""
    anew: Restart | GiveUp = NO_NEW_START
    """Whether a new start may help, if this one has failed."""


@dataclass(frozen=True)
class Ending:
    """What follows from it."""

    state: State
    cause: Cause
    requeue: bool
    """The job is to be put back into the queue."""
    text: str


def decide(seen: Evidence) -> Ending:
    """The judgement on a start."""
    if seen.finished:
        return Ending("finished", "finished", False, "the run is finished")
    if seen.cancelled is not None:
        return _after_cancellation(seen, seen.cancelled)
    if seen.bad_nodes:
        return _after_bad_nodes(seen)
    if seen.amended is not None:
        return _after_shortage(seen, seen.amended)
    if seen.stopped or (seen.warning and seen.exit_code == EXIT_RESUME):
        return _after_stop(seen)
    if seen.exit_code:
        return _after_failure(seen)
    return Ending("stopped", "unknown", False, f"ended {_where(seen)}, and nothing says why")


def _after_cancellation(seen: Evidence, cause: Cause) -> Ending:
    if seen.taken_back:
        return Ending("waiting", cause, False, f"ended by Slurm ({cause}) {_where(seen)}; back in the queue")
    hint = "; the ranks had not saved a checkpoint by then: raise job.stop_lead_s" if cause == "time limit" else ""
    return Ending("stopped", cause, False, f"ended by Slurm ({cause}) {_where(seen)}{hint}")


def _after_stop(seen: Evidence) -> Ending:
    if seen.asked_by_user or seen.warning is None:
        return Ending("stopped", "stop", False, f"stopped {_where(seen)}, as asked")
    cause: Cause = seen.warning
    stopped = f"stopped {_where(seen)} because of the {cause}"
    if seen.max_requeues == 0:
        return Ending("stopped", cause, False, f"{stopped}; job.max_requeues is 0")
    if cause != "time limit":
        return Ending("waiting", cause, True, f"{stopped}; back into the queue")
    if seen.num_requeues >= seen.max_requeues:
        text = f"{stopped}; it has been put back into the queue {seen.num_requeues} times (job.max_requeues)"
        return Ending("stopped", cause, False, text)
    if seen.first_step is not None and seen.first_step == seen.last_step:
        return Ending("stopped", cause, False, f"{stopped}, where it had begun; raise job.time_limit")
    count = f"{seen.num_requeues + 1} of {seen.max_requeues}"
    return Ending("waiting", cause, True, f"{stopped}; back into the queue, {count}")


def _after_shortage(seen: Evidence, amended: str) -> Ending:
    text = f"ended {_where(seen)}, and the next start will want less memory: {amended}"
    if seen.asked_by_user:
        return Ending("stopped", "stop", False, text)
    if seen.max_requeues == 0:
        return Ending("stopped", "memory", False, f"{text}; job.max_requeues is 0")
    return Ending("waiting", "memory", True, f"{text}; back into the queue")


def _after_bad_nodes(seen: Evidence) -> Ending:
    found = ", ".join(f"{node} is {why}" for node, why in seen.bad_nodes)
    if seen.asked_by_user:
        return Ending("stopped", "stop", False, f"{found}; stopped, as asked")
    if seen.max_requeues == 0:
        return Ending("failed", "bad node", False, f"{found}; job.max_requeues is 0")
    if not seen.others_are_there:
        return Ending("waiting", "bad node", True, f"{found}, but there are no others: put back into the queue")
    names = ", ".join(node for node, _ in seen.bad_nodes)
    return Ending("waiting", "bad node", True, f"{found}; put back into the queue, without {names}")


_HARDWARE = (
    "uncorrectable ECC error",
    "no CUDA-capable device is detected",
    "CUDA-capable device(s) is/are busy or unavailable",
    "hardware stack error",
    "CUDA driver initialization failed",
    "fallen off the bus",
    "but torch sees no GPU",
)
"""What CUDA and torch say of a GPU that does not work; a mistake in a program (an illegal address) is none of it."""


def is_of_hardware(text: str) -> bool:
    """Whether a rank has failed of its GPU, by its last words."""
    return any(words in text for words in _HARDWARE)


def parse_unfit(output: str) -> dict[str, str]:
    """Node -> why, of those on which no rank could be started (slurm/ranks.sh)."""
    return dict.fromkeys(re.findall(r"^shardtune: (\S+) is unfit: ", output, flags=re.MULTILINE), "unfit")


def _after_failure(seen: Evidence) -> Ending:
    cause: Cause = "hang" if seen.hung else "failure"
    text = f"hung {_where(seen)}" if seen.hung else f"failed {_where(seen)}"
    if isinstance(seen.anew, GiveUp):
        return Ending("failed", cause, False, f"{text}; {seen.anew.reason}" if seen.anew.reason else text)
    if seen.asked_by_user:
        return Ending("stopped", "stop", False, text)
    if seen.max_requeues == 0:
        return Ending("failed", cause, False, f"{text}; job.max_requeues is 0")
    return Ending("waiting", cause, True, f"{text}; back into the queue, new start {seen.anew.number}")


def _where(seen: Evidence) -> str:
    return f"at step {seen.last_step}" if seen.last_step is not None else "before its first step"


def parse_cancellation(output: str) -> Cause | None:
    """Why Slurm ended the job, as it says in the job's output: the last such line."""
    # Since 23.11 Slurm names what scancel sends: DUE to SIGNAL Terminated.
    pattern = r"\*\*\* JOB \d+ ON \S+ CANCELLED AT \S+(?: DUE (?:TO|to) ([A-Za-z ]+?))?(?:,[^*\n]*)? \*\*\*"
    found = re.findall(pattern, output)
    return _SLURM_CAUSES.get(found[-1], "scancel") if found else None


def parse_status(text: str) -> list[Start]:
    """The starts in a status.json, oldest first."""
    return [Start(**start) for start in json.loads(text)["starts"]]


def render_status(starts: Sequence[Start]) -> str:
    """status.json: where the last start stands, and all of them."""
    last = starts[-1]
    status = {"state": last.state, "cause": last.cause, "starts": [asdict(start) for start in starts]}
    return json.dumps(status, indent=1, ensure_ascii=False)


def ended(start: Start, ending: Ending, seen: Evidence, now: float) -> Start:
    """The start with how it ended."""
    return replace(
        start,
        ended=now,
        state=ending.state,
        cause=ending.cause,
        first_step=seen.first_step,
        last_step=seen.last_step,
    )


def steps_of(events: Sequence[Mapping[str, Any]]) -> tuple[int | None, int | None, bool]:
    """Of one start's events: the step that it began at, the last one that it did, and whether it stopped when asked."""
    first = next((event["step"] for event in reversed(events) if event["event"] == "start"), None)
    done = [event["step"] for event in events if event["event"] in ("start", "step", "stopped")]
    return first, done[-1] if done else None, any(event["event"] == "stopped" for event in events)
