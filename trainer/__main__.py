"""The process of a rank: its arguments, its log file, its exit code.

`python -m shardtune.trainer RECIPE_OR_RUN_DIR [key=value …]`, under torchrun, deepspeed, srun or alone.
"""

from shardtune.argument_parser import OneLineParser
from shardtune.safe_path import leave_out_working_directory

if __name__ == "__main__":
    leave_out_working_directory()

import argparse
import contextlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from shardtune.ds_config.resolve import has_own_ds_config
from shardtune.errors import BadNodesError, ConfigError, LaunchError, RestartError, ShardtuneError, TakenOverError
from shardtune.machine.visible_gpus import CUDA_VISIBLE_DEVICES, OLD_NCCL
from shardtune.recipe.sections.fault_policy import FaultsConfig
from shardtune.redaction import RedactingStream, hide_in_log_records, redact
from shardtune.run_dir.exit_codes import EXIT_BAD_NODES, EXIT_BUG, EXIT_OK, EXIT_RESTART, EXIT_RESUME, EXIT_USER
from shardtune.run_dir.files import LEASE, STOP, already_finished, failure_path, is_finished, open_in_place
from shardtune.run_dir.lease import FileLease, is_of_another_start
from shardtune.run_dir.run import Run, find_run, refuse_other_data, write_run_dir
from shardtune.run_dir.trackers import refuse_missing
from shardtune.run_dir.trust import settle_trust
from shardtune.trainer.distributed.lease import hold
from shardtune.trainer.distributed.rank_env import global_rank, lease_token, start_name, world_size
from shardtune.trainer.distributed.stop import Stop, StopAsked, signals_ask_to_stop
from shardtune.trainer.setup.garbage import lasting_objects
from shardtune.trainer.setup.rank_log import drop_deprecation_warnings

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from shardtune.trainer.data.prepare.prepare import Prepared
    from shardtune.trainer.retention.sets import Retention


SEVERAL_SEEDS = (
    "train.seeds: a start of the ranks trains one seed; use shardtune run RECIPE (or submit), which trains one "
    "after another, or give a single one: train.seeds=null train.seed=1"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs this rank and returns its exit code."""
    process = _Process(_parse(sys.argv[1:] if argv is None else argv), sys.stderr)
    with signals_ask_to_stop(when_stuck=lambda asked: os._exit(_end(asked, process))) as stop:
        try:
            return _main(process, stop)
        finally:
            process.leave()


@dataclass
class _Process:
    """What is known about this process when something fails."""

    arguments: argparse.Namespace
    terminal: TextIO
    run_dir: Path | None = None
    lease: FileLease | None = None
    """Of rank 0, and of a preparation."""
    started: float = field(default_factory=time.time)
    gpu: int | None = None
    """The machine's own number of its GPU, as soon as that is known."""

    def may_write(self, run_dir: Path) -> bool:
        """Whether no other start owns the run directory, as far as this process knows."""
        token = self.lease.token if self.lease is not None else lease_token()
        with contextlib.suppress(OSError):
            return not is_of_another_start(run_dir / LEASE, token, start_name())
        return True

    def leave(self) -> None:
        """Gives back the lease, if this process has taken one."""
        if self.lease is not None:
            self.lease.close()


def _main(process: _Process, stop: Stop) -> int:
    arguments = process.arguments
    try:
        training_run = find_run(
            arguments.path,
            arguments.overrides,
            arguments.run_dir,
            arguments.fork,
            checks_paths=global_rank() == 0,
        )
        if training_run.recipe.train.seeds is not None:
            raise ConfigError(SEVERAL_SEEDS)
        process.run_dir = training_run.run_dir
        if not training_run.is_as_kept:
            settle_trust(training_run, arguments.overrides, is_trusted=arguments.trust)
        process.lease = hold(training_run.run_dir, arguments.job)
        if process.lease is not None and process.lease.writer is None:  # else the launcher has done so
            write_run_dir(training_run)
        if arguments.prepare:
            _prepare(training_run, process, stop)
            return EXIT_OK
        return _train(training_run, process, stop)
    except (StopAsked, Exception) as error:
        stop.note_only()
        return _end(error, process)


def _end(error: BaseException, process: _Process) -> int:
    """Prints and records why this rank ends; returns its exit code."""
    code, text = _explain(error)
    text = redact(text)
    print(text, file=sys.stderr, flush=True)
    run_dir = process.run_dir
    if run_dir is None or process.arguments.prepare:
        return code
    if isinstance(error, TakenOverError) or not process.may_write(run_dir):
        # Nothing is recorded, because another start owns the run directory.
        shown, may_write = isinstance(error, TakenOverError) or global_rank() == 0, False
    else:
        shown, may_write = _is_first_failure(run_dir, code, text, process), True
    if shown:
        if process.terminal is not sys.stderr:  # which is the log by then
            print(text, file=process.terminal, flush=True)
        if code == EXIT_RESUME and may_write:
            (run_dir / STOP).unlink(missing_ok=True)
    return code


def _prepare(training_run: Run, process: _Process, stop: Stop) -> None:
    """Checks the ds_config of a run, and prepares the data, before its ranks start."""
    _watch_stop_file(training_run, process, stop)
    with stop.postponed(), lasting_objects():
        from shardtune.run_dir.view.progress import PreparationProgress
        from shardtune.trainer.data.prepare.prepare import prepare
        from shardtune.trainer.retention.preparation import prepare_retention

        if has_own_ds_config(training_run.recipe):  # DeepSpeed is slow to import
            from shardtune.trainer.engine.deepspeed_engine import refuse_bad_ds_config

            refuse_bad_ds_config(training_run.recipe)
    _refuse_uncompilable(training_run)
    refuse_missing(training_run.recipe.report.also, "report.also")
    _refuse_without_packages(training_run)
    recipe = training_run.recipe
    how: dict[str, Any] = {"say": _say, "progress": PreparationProgress(sys.stderr)}
    prepared = prepare(recipe, num_ranks=process.arguments.prepare, **how)
    refuse_other_data(training_run.run_dir, prepared.identity)
    prepare_retention(recipe, prepared, **how)
    _prepare_earlier(training_run)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _prepare_earlier(training_run: Run) -> None:
    """Prepares the rows of regularize.ewc, if there are any, unless their Fisher information is there already."""
    from shardtune.trainer.data.prepare.prepare import prepare
    from shardtune.trainer.setup.regularize.earlier_skill import earlier_recipe, is_computed, naming_its_key

    recipe = training_run.recipe
    if recipe.regularize.ewc is not None and not is_computed(training_run.run_dir):
        with naming_its_key():
            prepare(earlier_recipe(recipe, recipe.regularize.ewc))


def _refuse_uncompilable(training_run: Run) -> None:
    """Raises ConfigError or LaunchError if the model is to be compiled and cannot be, or not on this machine."""
    from shardtune.trainer.setup.compiler.refusals import refuse_no_compiler, refuse_uncompilable

    refuse_uncompilable(training_run.recipe)
    refuse_no_compiler(training_run.recipe)


def _refuse_without_packages(training_run: Run) -> None:
    """Raises LaunchError if the recipe needs a package that is not installed."""
    if training_run.recipe.model.has_quantized_base:  # transformers is slow to import
        from shardtune.trainer.model.quantized.loading import refuse_without_bitsandbytes

        refuse_without_bitsandbytes(training_run.recipe)


def _watch_stop_file(training_run: Run, process: _Process, stop: Stop) -> None:
    """Only rank 0 looks for the file, to spare the file server; the others learn of it from rank 0."""
    file, token = (None, None) if process.lease is None else (training_run.run_dir / STOP, process.lease.token)
    stop.watch(file, training_run.recipe.faults.stop_after_minutes, start=token)


def _train(training_run: Run, process: _Process, stop: Stop) -> int:
    """Runs this rank of a training; returns its exit code."""
    recipe, run_dir, arguments = training_run.recipe, training_run.run_dir, process.arguments
    process.terminal = terminal = _keep_log(run_dir, global_rank())
    if process.may_write(run_dir):
        failure_path(run_dir, global_rank()).unlink(missing_ok=True)
    drop_deprecation_warnings()
    _watch_stop_file(training_run, process, stop)
    with stop.postponed(), lasting_objects():
        from shardtune.trainer.distributed.gpu.own_gpu import gpu_number
        from shardtune.trainer.distributed.meeting import meet
        from shardtune.trainer.distributed.ranks import connect, disconnect
        from shardtune.trainer.distributed.watchdog import follow_heartbeats, watching
        from shardtune.trainer.run import run

    if arguments.ranks is not None and world_size() != arguments.ranks:
        raise LaunchError(
            f"{world_size()} ranks are running, but {arguments.ranks} are expected; did a node start on its own? "
            "Its part of the log shows which address it waited for"
        )
    _refuse_uncompilable(training_run)
    _refuse_without_packages(training_run)
    # Before the ranks connect, so that no collective times out while one of them tokenizes.
    follow_heartbeats(is_followed=arguments.followed)
    startup_hang_s = recipe.faults.startup_hang_s
    with watching(run_dir, global_rank(), startup_hang_s, num_ranks=world_size(), joining=True):
        store = meet(_patience(recipe.faults))
    prepared, retention = _data_by_zero(training_run, store)
    if is_finished(run_dir):
        if global_rank() == 0:
            print(already_finished(run_dir), file=terminal)
        return EXIT_OK
    with watching(run_dir, global_rank(), startup_hang_s, num_ranks=world_size(), joining=True):
        ranks = connect(arguments.device or recipe.job.device, store=store, timeout=_patience(recipe.faults))
        process.gpu = gpu_number(ranks.device)
    progress = None if arguments.followed else terminal
    is_done = run(
        recipe,
        run_dir,
        prepared,
        ranks,
        stop,
        terminal=progress,
        job=arguments.job,
        held=process.lease,
        retention=retention,
    )
    ranks.barrier()  # a rank that exits with EXIT_RESUME would have rank 0 killed before it has sent its last lines
    disconnect()
    if ranks.is_zero and not arguments.followed:
        print(_last_words(training_run, process, is_finished=is_done), file=terminal)
    return EXIT_OK if is_done else EXIT_RESUME


def _data_by_zero(training_run: Run, store: "Store | None") -> "tuple[Prepared, Retention]":
    """The prepared data and retention sets, which rank 0 finds for all ranks, or one rank of each machine prepares.

    Raises CheckpointError, on every rank, if the run began on other data.
    """
    from shardtune.trainer.data.prepare.prepare import Prepared, described_data, find_prepared, prepare
    from shardtune.trainer.distributed.meeting import Answer, settled_by_zero
    from shardtune.trainer.retention.preparation import find_retention, prepare_retention
    from shardtune.trainer.retention.sets import described_retention

    recipe = training_run.recipe

    def answer(prepared: Prepared, retention: "Retention") -> Answer:
        if global_rank() == 0:
            refuse_other_data(training_run.run_dir, prepared.identity)
        return {"data": prepared.described(), "retention": retention.described()}

    def look() -> Answer | None:
        prepared = find_prepared(recipe, num_ranks=world_size())
        retention = None if prepared is None else find_retention(recipe, prepared)
        return None if prepared is None or retention is None else answer(prepared, retention)

    def work() -> Answer:
        prepared = prepare(recipe, num_ranks=world_size())
        return answer(prepared, prepare_retention(recipe, prepared))

    found = settled_by_zero(store, look, work)
    return described_data(found["data"]), described_retention(found["retention"])


def _last_words(training_run: Run, process: _Process, *, is_finished: bool) -> str:
    """What rank 0 says at the end; in a job the batch script shows the results."""
    if not is_finished:
        return f"stopped; run it again to resume: {training_run.run_dir}"
    if process.arguments.job is not None:
        return f"finished: {training_run.run_dir}"
    from shardtune.run_dir.view.results import finished_message

    return finished_message(training_run.recipe, training_run.run_dir, process.started)


def _explain(error: BaseException) -> tuple[int, str]:
    """The exit code for this error, and the message to show."""
    if isinstance(error, StopAsked):
        return EXIT_RESUME, f"stopped by {error} before there was anything to save; run it again to resume"
    if isinstance(error, RestartError):
        return EXIT_RESTART, str(error)
    if isinstance(error, BadNodesError):
        return EXIT_BAD_NODES, str(error)
    if isinstance(error, ShardtuneError):
        return EXIT_USER, str(error)
    if "Duplicate GPU detected" in str(error):
        return EXIT_USER, (
            f"two ranks use one GPU ({str(error).strip().splitlines()[-1].strip()}). If they are MIG instances of it: "
            f"{OLD_NCCL}. Install a newer nvidia-nccl, name one instance of each GPU in {CUDA_VISIBLE_DEVICES}, or set "
            "job.ranks=1"
        )
    return EXIT_BUG, "".join(traceback.format_exception(error))


def _patience(faults: FaultsConfig) -> timedelta:
    """The time-out of collectives: a little longer than that of the watchdog, which knows what hangs."""
    if not faults.hang_s or not faults.startup_hang_s:
        return timedelta(days=365)
    return timedelta(seconds=max(faults.hang_s, faults.startup_hang_s) + 60)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser("python -m shardtune.trainer", description=__doc__)
    parser.add_argument("path", type=Path, help="a recipe, or the run directory to resume")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="overrides of the recipe, such as optim.lr=2e-5"
    )
    parser.add_argument("--run-dir", type=Path, help="the run directory")
    parser.add_argument(
        "--fork", type=Path, help="a new run directory that starts from the newest checkpoint of the given run"
    )
    parser.add_argument("--trust", action="store_true", help="accept the programs that the run directory names")
    parser.add_argument("--prepare", type=int, metavar="RANKS", help="only prepare the data, for this number of ranks")
    parser.add_argument("--ranks", type=int, help="the number of ranks expected on all machines")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="the device that the launcher has found")
    parser.add_argument("--job", help="the name that the scheduler gives the job")
    parser.add_argument("--followed", action="store_true", help="show no progress, because the launcher does")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # DeepSpeed's launcher passes it
    return parser.parse_intermixed_args(argv)


def _keep_log(run_dir: Path, rank: int) -> TextIO:
    """Redirects stdout and stderr of this process to its log file; returns the terminal it had."""
    terminal = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
    failure_path(run_dir, rank).unlink(missing_ok=True)
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    with open_in_place(run_dir / "logs" / f"rank-{rank}.log", "a") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {socket.gethostname()} pid {os.getpid()}\n")
        log.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    _hide_secrets()
    return terminal


def _hide_secrets() -> None:
    """Keeps secrets out of the log file, whichever library writes there."""
    sys.stdout, sys.stderr = (
        RedactingStream(open(number, "wb", closefd=False), encoding="utf-8", errors="replace", line_buffering=True)  # noqa: SIM115
        for number in (1, 2)
    )
    hide_in_log_records()


def _is_first_failure(run_dir: Path, code: int, text: str, process: _Process) -> bool:
    """Records why this rank ends; returns whether it is the first rank of this start to do so."""
    paths = failure_path(run_dir, "*").parent.glob("rank-*.failure.json")
    is_first = not any(path.stat().st_mtime >= process.started for path in paths)
    failure = {"rank": global_rank(), "host": socket.gethostname(), "time": time.time(), "code": code, "text": text}
    if process.gpu is not None:
        failure["gpu"] = process.gpu
    with open_in_place(failure_path(run_dir, global_rank()), "w") as file:
        file.write(json.dumps(failure))
    return is_first


if __name__ == "__main__":
    sys.exit(main())
