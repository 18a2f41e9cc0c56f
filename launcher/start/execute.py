"""The launcher's effects on the world: starts processes, writes run directories, queries devices."""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from shardtune.counted import counted
from shardtune.errors import LaunchError
from shardtune.known_machine.store import learn_from
from shardtune.launcher.plan.backends import BACKENDS
from shardtune.launcher.plan.job import JobPlan, Machine
from shardtune.launcher.registry import remember
from shardtune.launcher.start.announce import announce_plan
from shardtune.launcher.start.exit_report import StartOutcome, explain_outcome, remedy_for_killed
from shardtune.launcher.start.follow import Events, Heartbeats, first_failure, hung_ranks, newest_saved
from shardtune.launcher.start.orphans import START_MARK, end_orphans
from shardtune.launcher.start.restart import Failure, Restart, next_start
from shardtune.machine.host_memory import host_memory
from shardtune.machine.nvidia_smi import ask_nvidia_smi
from shardtune.machine.open_files import raise_open_files
from shardtune.machine.visible_gpus import CUDA_VISIBLE_DEVICES, model_of, parse_listing, visible_gpus
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_RESTART, EXIT_RESUME, EXIT_USER
from shardtune.run_dir.files import LEASE, STOP, is_finished, open_in_place
from shardtune.run_dir.launch_times import LAUNCHED_AT
from shardtune.run_dir.lease import LEASE_TOKEN, OWNER_GRACE_S, refuse_if_lost, take_lease
from shardtune.run_dir.micro_batch_budget import read_budget
from shardtune.run_dir.run import write_run_dir
from shardtune.run_dir.stop_file import ask_to_stop
from shardtune.run_dir.view.event_lines import read_milestones
from shardtune.run_dir.view.progress import Progress
from shardtune.run_dir.view.results import finished_message
from shardtune.safe_path import safe_environment
from shardtune.shell_line import shell_line

STOP_GRACE_S = 60.0
"""After the first Ctrl-C, ranks that make no progress for this long are ended without a checkpoint."""
TERM_GRACE_S = 5.0
HEARTBEATS_S = 1.0
"""How often the launcher looks at the heartbeats of its ranks."""
NOT_FOUND = 127
"""The exit code of a shell for a program that does not exist."""
PR_SET_PDEATHSIG = 1
"""The option of Linux's prctl(2)."""
FROZEN_AFTER_S = 60.0
"""How long after faults.hang_s, or faults.startup_hang_s, the launcher ends ranks that should have ended themselves."""


class Interrupt(NamedTuple):
    """A request to stop, received as a signal."""

    number: int
    """The signal's number."""
    moment: float


def find_machine() -> Machine:
    """The GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES leaves, and the cores that this process may use."""
    num_cores = len(os.sched_getaffinity(0))
    answer = ask_nvidia_smi("-L")
    if answer is None:
        return Machine(0, num_cores, memory=host_memory())
    if answer.exit_code is None:
        return Machine(0, num_cores, fault=answer.fault, memory=host_memory())
    listed = parse_listing(answer.output)
    seen = visible_gpus(listed, os.environ.get(CUDA_VISIBLE_DEVICES))
    notices = seen.notices if answer.fault is None else (*seen.notices, answer.fault)
    gpu_name = model_of(listed, seen.names[0]) if seen.names else None
    return Machine(
        len(seen.names), num_cores, gpus=seen.names, notices=notices, gpu_name=gpu_name, memory=host_memory()
    )


@dataclass(frozen=True)
class ToolResult:
    """The exit code and the output of a program."""

    exit_code: int
    output: str
    errors: str


def run_tool(
    argv: Sequence[str], *, stdin: str | None = None, environment: Mapping[str, str | None] | None = None
) -> ToolResult:
    """Runs a program until it ends; exit code NOT_FOUND if it does not exist. None removes an environment variable."""
    changed = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard", **(environment or {})}
    # Within a job, Slurm's tools would take that job's variables for options.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
    tool_environment = {name: value for name, value in (kept | changed).items() if value is not None}
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, timeout=120, env=tool_environment
        )
    except FileNotFoundError as error:
        return ToolResult(NOT_FOUND, "", str(error))
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{argv[0]} did not answer within two minutes; try again later") from None
    return ToolResult(done.returncode, done.stdout, done.stderr)


def run_module(module: str, arguments: Sequence[str]) -> int:
    """Runs one of the trainer's modules in the foreground; returns its exit code."""
    words = [sys.executable, "-m", module, *arguments]
    environment = os.environ | safe_environment()
    return subprocess.run(words, env=environment, check=False, preexec_fn=_end_with_parent).returncode


def run_ranks(argv: Sequence[str], environment: Mapping[str, str], errors: Path | None = None) -> int:
    """Runs a command line that starts ranks, in the foreground; returns its exit code.

    What it writes to stderr goes to the file `errors`, if one is given.
    """
    whole = os.environ | safe_environment() | dict(environment)
    with contextlib.nullcontext() if errors is None else errors.open("wb") as log:
        return subprocess.run(argv, env=whole, stderr=log, check=False, preexec_fn=_end_with_parent).returncode


def run_interactive(module: str, arguments: Sequence[str]) -> int:
    """Runs an interactive module, which handles Ctrl-C itself; returns its exit code."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the module would inherit
    try:
        return run_module(module, arguments)
    finally:
        signal.signal(signal.SIGINT, before)


def run_job(plan: JobPlan, received: list[Interrupt] | None = None) -> int:
    """Runs the plan until it finishes, stops or fails, and shows its progress; returns the exit code.

    The signals that ask it to stop are added to `received`. Raises CheckpointError, and has written nothing, if another
    start owns the run directory.
    """
    began = time.time()
    say = functools.partial(print, file=sys.stderr)
    with contextlib.closing(take_lease(plan.run_dir / LEASE, patience_s=OWNER_GRACE_S, say=say)) as lease:
        write_run_dir(plan.run)
        remember(plan.run_dir)
        (plan.run_dir / STOP).unlink(missing_ok=True)
        # Before the imports of the preparation, which take seconds.
        say(f"{counted(plan.world_size, 'rank')} on {plan.device}; run directory: {plan.run_dir}")
        for text in plan.notices:
            say(text)
        announce_plan(plan, say)
        raise_open_files(plan.world_size)  # the ranks report a limit that is too low
        with _interrupts([] if received is None else received) as interrupts:
            of_start = {LEASE_TOKEN: lease.token, LAUNCHED_AT: f"{began:.3f}"}
            held = replace(plan, environment={**plan.environment, **of_start})
            return _run(held, interrupts, began)


def _run(plan: JobPlan, interrupts: list[Interrupt], began: float) -> int:
    """Prepares the data, and starts the ranks until they are done; returns the exit code."""
    code = _prepare(plan, interrupts)
    if interrupts or code == EXIT_RESUME:
        return _stopped(plan, interrupts)
    if code != EXIT_OK:
        return code
    if is_finished(plan.run_dir):
        print(finished_message(plan.recipe, plan.run_dir))
        return EXIT_OK
    code = _start_until_done(plan, interrupts)
    if code == EXIT_OK:
        print(finished_message(plan.recipe, plan.run_dir, began))
    return code


def _prepare(plan: JobPlan, interrupts: list[Interrupt]) -> int:
    """Prepares the data in a process of its own, so that torch's memory is freed; an interrupt ends it at once."""
    words = [sys.executable, "-m", "shardtune.trainer", str(plan.run_dir), f"--prepare={plan.world_size}"]
    environment = os.environ | safe_environment() | {LEASE_TOKEN: plan.environment[LEASE_TOKEN]}
    process = subprocess.Popen(words, env=environment, start_new_session=True, preexec_fn=_end_with_parent)
    try:
        while process.poll() is None and not interrupts:
            time.sleep(0.05)
    finally:
        _end(process)
    return process.returncode


def _start_until_done(plan: JobPlan, interrupts: list[Interrupt]) -> int:
    """Starts the ranks, and restarts them after a mishap as recipe.faults allows; returns the exit code.

    Raises TakenOverError if another start, which believed this one dead, owns the run directory by now.
    """
    failures: list[Failure] = []
    while True:
        refuse_if_lost(plan.run_dir / LEASE, plan.environment[LEASE_TOKEN])
        code, failure = _run_ranks(plan, interrupts)
        if failure is None:
            return code
        failures.append(failure)
        decision = next_start(failures, plan.recipe.faults)
        if not isinstance(decision, Restart):
            reason = f"{decision.reason}\n" if decision.reason else ""
            print(f"{reason}`{shell_line('run', plan.run_dir)}` resumes from the newest checkpoint", file=sys.stderr)
            return code
        if decision.number:
            number = f"{decision.number} of at most {plan.recipe.faults.max_restarts}"
            print(f"restarting in {decision.delay_s:g} s (restart {number})", file=sys.stderr)
        until = time.monotonic() + decision.delay_s
        while time.monotonic() < until and not interrupts:
            time.sleep(0.1)
        if interrupts:
            return _stopped(plan, interrupts)


def _run_ranks(plan: JobPlan, interrupts: list[Interrupt]) -> tuple[int, Failure | None]:
    """Runs one start; returns its exit code, and how it failed if a restart may be considered."""
    since, budget = time.time(), read_budget(plan.run_dir)
    log_path = plan.run_dir / "logs" / "launcher.log"
    with open_in_place(log_path, "w") as log:
        mark = uuid.uuid4().hex
        environment = os.environ | safe_environment() | dict(plan.environment) | {START_MARK: mark}
        # A session of its own: Ctrl-C reaches this process alone, which then ends the ranks in order.
        process = subprocess.Popen(
            plan.argv,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        progress = Progress(sys.stderr)
        try:
            silence_s = _follow(process, plan, Events(plan.run_dir, since), progress, interrupts)
        finally:
            progress.close()
            _end(process)
            if process.returncode != EXIT_OK:
                end_orphans(mark)
    refuse_if_lost(plan.run_dir / LEASE, plan.environment[LEASE_TOKEN])
    if process.returncode == EXIT_OK:
        from shardtune.launcher.report.page import write_report  # and numpy, which nothing else here needs

        write_report(plan.run_dir)
        learn_from(plan.run_dir)
        return EXIT_OK, None
    failure = first_failure(plan.run_dir, since)
    exits = BACKENDS[plan.recipe.job.backend].parse_exits(log_path.read_text(encoding="utf-8", errors="replace"))
    events = [event for event in read_milestones(plan.run_dir) if event["event"] in ("start", "step")]
    has_begun = bool(events) and events[-1]["time"] >= since
    outcome = StartOutcome(failure, exits, hung_ranks(plan.run_dir, since), silence_s, has_begun)
    if interrupts or outcome.is_stop:
        return _stopped(plan, interrupts), None
    kept = read_budget(plan.run_dir)
    # Only while the number falls, so that the restarts have an end.
    if outcome.is_amended and kept is not None and (budget is None or kept.tokens < budget.tokens):
        print(f"{kept}; restarting now", file=sys.stderr)
        return EXIT_RESTART, Failure(step=0, is_mishap=True, is_amended=True)
    train, max_tokens = plan.recipe.train, plan.recipe.data.max_tokens
    remedy = remedy_for_killed(train.micro_batch_tokens, max_tokens, kept.tokens if kept else None)
    print(explain_outcome(outcome, log_path, remedy), file=sys.stderr)
    if EXIT_USER in exits.values():
        return EXIT_USER, None
    steps = [event for event in events if event["event"] == "step"]
    has_stepped = bool(steps) and steps[-1]["time"] >= since
    return EXIT_BUG, Failure(
        steps[-1]["step"] if steps else 0,
        is_mishap=has_stepped or outcome.is_from_outside,
        saved=newest_saved(plan.run_dir),
    )


def _stopped(plan: JobPlan, interrupts: list[Interrupt]) -> int:
    print(f"stopped; `{shell_line('run', plan.run_dir)}` resumes from the newest checkpoint", file=sys.stderr)
    return EXIT_INTERRUPTED if interrupts and interrupts[0].number == signal.SIGINT else EXIT_RESUME


def _follow(
    process: subprocess.Popen[bytes], plan: JobPlan, events: Events, progress: Progress, interrupts: list[Interrupt]
) -> float | None:
    """Shows events until the process ends; a first interrupt asks the ranks to stop, a second one ends them.

    Before the first step there is nothing to save, and the first interrupt ends them. A checkpoint may take as long as
    it makes progress. Returns for how many seconds no rank has made progress if that is the reason to end them.
    """
    asked = training = False
    heartbeats, faults = Heartbeats(plan.run_dir, every_s=HEARTBEATS_S), plan.recipe.faults
    while True:
        ended = process.poll() is not None
        for event in events.new():
            training = training or event["event"] == "start"
            progress.show(event)
        if ended or (interrupts and not training):
            return None
        if interrupts and not asked:
            asked = True
            number = interrupts[0].number
            by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            ask_to_stop(plan.run_dir, by, start=plan.environment[LEASE_TOKEN])
            progress.say("stopping after this step and saving a checkpoint; press Ctrl-C again to end without one")
        silence_s = heartbeats.silence_s()
        since_asked_s = time.monotonic() - interrupts[0].moment if interrupts else 0.0
        if len(interrupts) > 1 or min(since_asked_s, silence_s) > STOP_GRACE_S:
            return None
        hang_s = faults.hang_s if training else faults.startup_hang_s
        if hang_s and silence_s > hang_s + FROZEN_AFTER_S:
            return silence_s
        time.sleep(0.1)


def _end_with_parent() -> None:
    """In a child process: asks for SIGTERM when its parent dies, so that ranks save a checkpoint and do not live on."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its group."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TERM_GRACE_S)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _interrupts(interrupts: list[Interrupt]) -> Iterator[list[Interrupt]]:
    """Adds the signals that ask this process to stop to the list."""

    def note(number: int, _: FrameType | None) -> None:
        interrupts.append(Interrupt(number, time.monotonic()))

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
