"""The only place where the launcher touches the world: starts processes, writes run directories, asks for devices."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launcher.follow import Events, first_failure
from launcher.local import BACKENDS
from launcher.plan import JobPlan, Machine
from launcher.report.page import REPORT, write_report
from trainer.config.run_dir import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_RESUME,
    EXIT_USER,
    METRICS,
    RESULTS,
    STOP,
    write_run_dir,
)
from trainer.progress import Progress

STOP_GRACE_S = 30.0
"""How long a first Ctrl-C waits for the ranks to save a checkpoint, before they are ended without."""
TERM_GRACE_S = 5.0


def find_machine() -> Machine:
    """GPUs as CUDA_VISIBLE_DEVICES or else nvidia-smi names them; cores as this process may use them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    num_gpus = 0
    if shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
        num_gpus = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    if visible is not None and num_gpus:
        # As CUDA reads it: whatever follows the first name that is none is not visible either.
        names = itertools.takewhile(lambda name: name.strip() not in ("", "-1"), visible.split(","))
        num_gpus = len(list(names))
    return Machine(num_gpus, len(os.sched_getaffinity(0)))


def run_module(module: str, arguments: Sequence[str]) -> int:
    """Runs one of the trainer's modules in the foreground; its exit code."""
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


def run_dialogue(module: str, arguments: Sequence[str]) -> int:
    """The same for a module that people talk to, and that has a use of its own for Ctrl-C."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the module would inherit
    try:
        return run_module(module, arguments)
    finally:
        signal.signal(signal.SIGINT, before)


def run_job(plan: JobPlan) -> int:
    """Runs the plan to its end, showing its progress; the exit code."""
    write_run_dir(plan.run)
    (plan.run_dir / STOP).unlink(missing_ok=True)
    code = run_module("trainer", [str(plan.run_dir), f"--prepare={plan.world_size}"])
    if code != EXIT_OK:
        return code
    if (plan.run_dir / RESULTS).exists():
        print(f"{plan.run_dir} has come to its end already; its results:\n{_results(plan.run_dir)}")
        print("To train it again, give another --run-dir (or another train.seed).")
        return EXIT_OK
    return _run_ranks(plan)


def _run_ranks(plan: JobPlan) -> int:
    since = time.time()
    print(f"{plan.world_size} ranks on {plan.device}; everything goes to {plan.run_dir}", file=sys.stderr)
    log_path = plan.run_dir / "logs" / "launcher.log"
    with log_path.open("w", encoding="utf-8") as log, _interrupts() as interrupts:
        environment = os.environ | dict(plan.environment)
        # A session of its own: Ctrl-C reaches this process alone, which then ends the ranks in order.
        process = subprocess.Popen(
            plan.argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        progress = Progress(sys.stderr)
        try:
            _follow(process, plan, Events(plan.run_dir, since), progress, interrupts)
        finally:
            progress.close()
            _end(process)
    interrupted = bool(interrupts)
    if process.returncode == EXIT_OK:
        write_report(plan.run_dir)
        print(_farewell(plan))
        return EXIT_OK
    failure = first_failure(plan.run_dir, since)
    exits = BACKENDS[plan.recipe.job.backend].parse_exits(log_path.read_text(encoding="utf-8", errors="replace"))
    if interrupted or (failure is None and EXIT_RESUME in exits.values()):
        print(f"stopped; `shardtune run {plan.run_dir}` goes on from the newest checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED if interrupted else EXIT_RESUME
    print(_obituary(plan, failure, exits, log_path), file=sys.stderr)
    return EXIT_USER if EXIT_USER in exits.values() else EXIT_BUG


def _follow(
    process: subprocess.Popen[bytes], plan: JobPlan, events: Events, progress: Progress, interrupts: list[float]
) -> None:
    """Shows events until the process ends; a first interrupt asks the ranks to stop, a second ends them.

    Before the first step there is nothing to save, and the first interrupt is enough.
    """
    asked = training = False
    while True:
        ended = process.poll() is not None
        for event in events.new():
            training = training or event["event"] == "start"
            progress.show(event)
        if ended or (interrupts and not training):
            return
        if interrupts and not asked:
            asked = True
            (plan.run_dir / STOP).touch()
            progress.say("stopping after this step and saving a checkpoint; Ctrl-C again ends it at once")
        if len(interrupts) > 1 or (interrupts and time.monotonic() - interrupts[0] > STOP_GRACE_S):
            return
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Makes sure that no process of the job outlives this one."""
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
def _interrupts() -> Iterator[list[float]]:
    """Collects the moments at which this process was asked to stop."""
    moments: list[float] = []
    before = {
        number: signal.signal(number, lambda *_: moments.append(time.monotonic()))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield moments
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _obituary(plan: JobPlan, failure: dict[str, Any] | None, exits: dict[int, int], log_path: Path) -> str:
    """Why the job ended, the first cause first."""
    # A rank that was killed writes nothing down, and its peers then complain of the lost connection: it goes first.
    killed = {rank: -code for rank, code in exits.items() if code < 0 and -code != signal.SIGTERM}
    lines = [
        f"rank {rank} was killed by signal {number} ({signal.strsignal(number)})"
        + ("; was memory short? See dmesg, and lower train.micro_batch_tokens" if number == signal.SIGKILL else "")
        for rank, number in killed.items()
    ]
    if failure is not None and not killed:
        lines.append(f"rank {failure['rank']} on {failure['host']} failed:\n{failure['text'].rstrip()}")
    if not lines:
        lines.append(f"the job failed: {_tail(log_path)}")
    lines.append(f"logs: {log_path.parent}\n`shardtune run {plan.run_dir}` goes on from the newest checkpoint")
    return "\n".join(lines)


def _tail(path: Path, num_lines: int = 20) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])


def _results(run_dir: Path) -> str:
    return (run_dir / RESULTS).read_text(encoding="utf-8")


def _farewell(plan: JobPlan) -> str:
    """Where everything is."""
    run_dir = plan.run_dir
    talk = [f"talk to it  shardtune chat {run_dir}"] if plan.recipe.task.kind == "chat" else []
    return "\n".join(
        [
            _results(run_dir),
            f"best model  {run_dir / 'export' / 'best'}",
            f"last model  {run_dir / 'export' / 'last'}",
            f"curves      {run_dir / REPORT}",
            f"metrics     {run_dir / METRICS}",
            f"logs        {run_dir / 'logs'}",
            f'try it      shardtune predict {run_dir} --text "…"',
            *talk,
        ]
    )
