"""How a start of a job ended, why, and whether the ranks are restarted within the job or the job is requeued. Pure.

RUN_DIR/status.json holds the starts of a run on a cluster; `shardtune status` shows earlier starts from it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from shardtune.launcher.slurm.in_place import Here, Queue
from shardtune.launcher.start.restart import GiveUp, Restart
from shardtune.run_dir.exit_codes import EXIT_RESUME

WarnedOf = Literal["time limit", "preemption", "signal"]
"""Why the signal of --signal was sent; `signal`: a user sent it with scancel --batch --signal=USR1."""
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
State = Literal["running", "restarting", "waiting", "stopped", "failed", "finished"]
"""restarting: the ranks are started again within the job. waiting: the job is in the queue again. stopped: it is not,
and the run is not finished."""

NO_RESTART, NO_PLACE = GiveUp(""), Queue("")
STATUS = "status.json"
STOP_REQUEST = "stop_request.json"
"""The file that marks a stop request of a user; the job is then not requeued."""

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
    """The file with the job's output."""
    output_bytes: int
    """The length of that file when the start began: a restarted job appends to the same file."""
    ended: float | None = None
    state: State = "running"
    cause: Cause | None = None
    first_step: int | None = None
    last_step: int | None = None
    """Of the training; None if it did not get that far."""
    cluster: str | None = None
    user: str | None = None
    submitted: str | None = None
    """When the job was submitted, or requeued, as Slurm writes times."""
    first_submitted: str | None = None
    """When the job was submitted before its first start."""
    attempt: int = 0
    """How often the ranks had been restarted within this start of the job before."""
    delay_s: float = 0.0
    """Seconds that such a restart waited."""
    saved: int = 0
    """The step of the newest checkpoint when it ended; 0 if there was none."""


@dataclass(frozen=True)
class Evidence:
    """The known facts about a start that has ended."""

    finished: bool
    """Whether the run's results exist."""
    first_step: int | None
    """The step at which its training began; None if it did not."""
    last_step: int | None
    stopped: bool
    """Whether the ranks saved a checkpoint and stopped on request."""
    asked_by_user: bool
    warning: WarnedOf | None
    """Why Slurm sent the signal of --signal, if it did."""
    cancelled: Cause | None
    """Why Slurm ended it, if it did."""
    taken_back: bool
    """Whether Slurm has requeued the job by itself."""
    exit_code: int
    num_requeues: int
    """How often the job has been requeued because of its time limit."""
    max_requeues: int
    bad_nodes: tuple[tuple[str, str], ...] = ()
    """(node, why) of the nodes that it found to be bad, if job.exclude_bad_nodes is set."""
    has_other_nodes: bool = True
    """Whether there are enough nodes without them."""
    amended: str | None = None
    """How the next start needs less memory, if this one ran short of it and has recorded that."""
    hung: bool = False
    """Whether ranks without progress wrote their stack traces and ended."""
    restart: Restart | GiveUp = NO_RESTART
    """Whether another start may succeed, if this one failed."""
    place: Here | Queue = NO_PLACE
    """Where the ranks are restarted, if they are."""
    lost_nodes: tuple[str, ...] = ()
    """The nodes that the job lost while the ranks ran on them."""
    stepped_before: bool = False
    """Whether the ranks had done a step in this job since Slurm started it, before they were restarted within it."""
    saved: int = 0
    """The step of the newest checkpoint; 0 if there is none."""


@dataclass(frozen=True)
class Ending:
    """The judgement on a start."""

    state: State
    cause: Cause
    requeue: bool
    """Whether to requeue the job."""
    text: str
    delay_s: float = 0.0
    """Seconds until the ranks are restarted, if they are within the job."""
    nodes: tuple[str, ...] = ()
    """The nodes on which they are restarted."""


def decide(seen: Evidence) -> Ending:
    """Judges a start by the evidence."""
    if seen.finished:
        return Ending("finished", "finished", False, "the run is finished")
    if seen.cancelled is not None:
        return _after_cancellation(seen, seen.cancelled)
    if seen.bad_nodes:
        return _after_bad_nodes(seen)
    if seen.amended is not None:
        return _after_shortage(seen, seen.amended)
    if seen.lost_nodes and seen.exit_code and not seen.stopped:
        return _after_node_loss(seen)
    if seen.stopped or ((seen.warning or seen.asked_by_user) and seen.exit_code == EXIT_RESUME):
        return _after_stop(seen)
    if seen.exit_code:
        return _after_failure(seen)
    return Ending("stopped", "unknown", False, f"ended {_where(seen)} for an unknown reason")


def _after_cancellation(seen: Evidence, cause: Cause) -> Ending:
    if seen.taken_back:
        return Ending("waiting", cause, False, f"ended by Slurm ({cause}) {_where(seen)}; requeued by Slurm")
    hint = "; the ranks had no time to save a checkpoint: raise job.stop_lead_s" if cause == "time limit" else ""
    return Ending("stopped", cause, False, f"ended by Slurm ({cause}) {_where(seen)}{hint}")


def _after_stop(seen: Evidence) -> Ending:
    if seen.asked_by_user or seen.warning is None:
        return Ending("stopped", "stop", False, f"stopped {_where(seen)}, as requested")
    cause: Cause = seen.warning
    stopped = f"stopped {_where(seen)} because of the {cause}"
    if seen.max_requeues == 0:
        return Ending("stopped", cause, False, f"{stopped}; not requeued (job.max_requeues is 0)")
    if cause != "time limit":
        return Ending("waiting", cause, True, f"{stopped}; requeued")
    if seen.num_requeues >= seen.max_requeues:
        text = f"{stopped}; not requeued: all {seen.num_requeues} requeues are used up (job.max_requeues)"
        return Ending("stopped", cause, False, text)
    if not seen.stepped_before and (seen.first_step is None or seen.first_step == seen.last_step):
        text = f"{stopped}, without a single step; raise job.time_limit (sbatch --time)"
        return Ending("stopped", cause, False, text)
    count = f"{seen.num_requeues + 1} of {seen.max_requeues}"
    return Ending("waiting", cause, True, f"{stopped}; requeued ({count})")


def _after_shortage(seen: Evidence, amended: str) -> Ending:
    text = f"ended {_where(seen)}; the next start needs less memory: {amended}"
    if seen.asked_by_user:
        return Ending("stopped", "stop", False, text)
    if isinstance(seen.place, Here):
        return Ending("restarting", "memory", False, f"{text}; restarting in this job", nodes=seen.place.nodes)
    if seen.max_requeues == 0:
        return Ending("stopped", "memory", False, f"{text}; not requeued (job.max_requeues is 0)")
    return Ending("waiting", "memory", True, f"{text}; requeued")


def _after_node_loss(seen: Evidence) -> Ending:
    lost = ", ".join(seen.lost_nodes)
    text = f"lost {lost} {_where(seen)}"
    if seen.asked_by_user:
        return Ending("stopped", "stop", False, f"{text}; stopped, as requested")
    if isinstance(seen.place, Here):
        nodes = ", ".join(seen.place.nodes)
        return Ending(
            "restarting", "node failure", False, f"{text}; restarting in this job on {nodes}", nodes=seen.place.nodes
        )
    reason = f" ({seen.place.reason})" if seen.place.reason else ""
    if seen.max_requeues == 0:
        return Ending("stopped", "node failure", False, f"{text}{reason}; not requeued (job.max_requeues is 0)")
    return Ending("waiting", "node failure", True, f"{text}{reason}; requeued")


def _after_bad_nodes(seen: Evidence) -> Ending:
    bad = ", ".join(f"{node} is {why}" for node, why in seen.bad_nodes)
    if seen.asked_by_user:
        return Ending("stopped", "stop", False, f"{bad}; stopped, as requested")
    if seen.max_requeues == 0:
        return Ending("failed", "bad node", False, f"{bad}; not requeued (job.max_requeues is 0)")
    if not seen.has_other_nodes:
        return Ending("waiting", "bad node", True, f"{bad}, but there are no other nodes; requeued")
    names = ", ".join(node for node, _ in seen.bad_nodes)
    return Ending("waiting", "bad node", True, f"{bad}; requeued without {names}")


_HARDWARE = (
    "uncorrectable ECC error",
    "no CUDA-capable device is detected",
    "CUDA-capable device(s) is/are busy or unavailable",
    "hardware stack error",
    "CUDA driver initialization failed",
    "fallen off the bus",
    "but torch sees no GPU",
)
"""Messages of CUDA and torch about a broken GPU; a programming error (an illegal address) is not among them."""


def is_of_hardware(text: str) -> bool:
    """Whether a rank failed because of its GPU, judging by the text of its failure."""
    return any(words in text for words in _HARDWARE)


def parse_unfit(output: str) -> dict[str, str]:
    """Node -> why, for the nodes on which no rank could be started (slurm/ranks.sh)."""
    return dict.fromkeys(re.findall(r"^shardtune: (\S+) is unfit: ", output, flags=re.MULTILINE), "unfit")


def _after_failure(seen: Evidence) -> Ending:
    cause: Cause = "hang" if seen.hung else "failure"
    text = f"hung {_where(seen)}" if seen.hung else f"failed {_where(seen)}"
    if isinstance(seen.restart, GiveUp):
        return Ending("failed", cause, False, f"{text}; {seen.restart.reason}" if seen.restart.reason else text)
    if seen.asked_by_user:
        return Ending("stopped", "stop", False, text)
    number = f"restart {seen.restart.number}"
    if isinstance(seen.place, Here):
        text = f"{text}; restarting in this job in {seen.restart.delay_s:g} s ({number})"
        return Ending("restarting", cause, False, text, seen.restart.delay_s, seen.place.nodes)
    reason = f", because {seen.place.reason}" if seen.place.reason else ""
    if seen.max_requeues == 0:
        return Ending("failed", cause, False, f"{text}; not requeued (job.max_requeues is 0){reason}")
    return Ending("waiting", cause, True, f"{text}; requeued ({number}){reason}")


def _where(seen: Evidence) -> str:
    return f"at step {seen.last_step}" if seen.last_step is not None else "before its first step"


def parse_cancellation(output: str) -> Cause | None:
    """Why Slurm ended the job, by its last line about that in the job's output; None if there is none."""
    # Since 23.11 Slurm names what scancel sends: DUE to SIGNAL Terminated.
    pattern = r"\*\*\* JOB \d+ ON \S+ CANCELLED AT \S+(?: DUE (?:TO|to) ([A-Za-z ]+?))?(?:,[^*\n]*)? \*\*\*"
    reasons = re.findall(pattern, output)
    return _SLURM_CAUSES.get(reasons[-1], "scancel") if reasons else None


def parse_status(text: str) -> list[Start]:
    """The starts in a status.json, oldest first; what a later version of shardtune adds to them is ignored."""
    known = {field.name for field in fields(Start)}
    return [
        Start(**{name: value for name, value in start.items() if name in known}) for start in json.loads(text)["starts"]
    ]


def render_status(starts: Sequence[Start]) -> str:
    """The content of status.json: the state of the last start, and all starts."""
    last = starts[-1]
    status = {"state": last.state, "cause": last.cause, "starts": [asdict(start) for start in starts]}
    return json.dumps(status, indent=1, ensure_ascii=False)


def ended(start: Start, ending: Ending, seen: Evidence, now: float) -> Start:
    """The start with the record of its end."""
    return replace(
        start,
        ended=now,
        state=ending.state,
        cause=ending.cause,
        first_step=seen.first_step,
        last_step=seen.last_step,
        saved=seen.saved,
    )


def restarted(start: Start, ending: Ending, now: float, output_bytes: int) -> Start:
    """The start of the ranks that follows within the same job."""
    return replace(
        start,
        nodes=",".join(ending.nodes),
        began=now,
        output_bytes=output_bytes,
        attempt=start.attempt + 1,
        delay_s=ending.delay_s,
    )


def steps_of(events: Sequence[Mapping[str, Any]]) -> tuple[int | None, int | None, bool]:
    """(first step, last step, whether it stopped on request) of a start, from its events."""
    first = next((event["step"] for event in reversed(events) if event["event"] == "start"), None)
    done = [event["step"] for event in events if event["event"] in ("start", "step", "stopped")]
    return first, done[-1] if done else None, any(event["event"] == "stopped" for event in events)
