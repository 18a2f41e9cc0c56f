"""Checks machines without training anything: this one, or nodes of a cluster."""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shardtune.errors import LaunchError
from shardtune.launcher.plan.backends import BACKENDS
from shardtune.launcher.plan.job import plan_ranks
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.submission import plan_doctor
from shardtune.launcher.start import execute
from shardtune.recipe.load import machine_recipe
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER

POLL_S = 1.0
GOING_ON = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


def check_here(overrides: Sequence[str]) -> int:
    """Checks this machine; returns the exit code."""
    machine = execute.find_machine()
    ranks = plan_ranks(machine_recipe(overrides), machine)
    for text in machine.notices:
        print(text, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        module = ["shardtune.trainer.commands.doctor", folder, f"--device={ranks.device}"]
        return execute.run_ranks(BACKENDS["torchrun"].argv(ranks.num_ranks, module), ranks.environment)


def check_nodes(overrides: Sequence[str], say: Callable[[str], None]) -> int:
    """Checks nodes in a job of its own and passes on the output; returns the exit code."""
    nodes = cluster.find_nodes()
    if nodes is None:
        raise LaunchError(cluster.NO_SLURM)
    # Not in /tmp, because the nodes must see it too.
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".doctor-") as folder:
        submission = plan_doctor(overrides, Path(folder), nodes)
        cluster.try_submission(submission)
        job = cluster.hand_in(submission)
        state = ""
        try:
            while (state := cluster.last_word(job) or "").split(",")[0] in GOING_ON:
                time.sleep(POLL_S)
        finally:
            if state.split(",")[0] in GOING_ON:
                cluster.cancel_job(job)
        output = Path(folder) / "doctor.out"
        text = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
        say(text.rstrip() or f"job {job} printed nothing ({state})")
    return EXIT_OK if state.startswith("COMPLETED") else EXIT_USER
