"""Measures this machine with as many ranks as runs would use, and keeps the result for later plans."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shardtune.counted import counted
from shardtune.errors import ConfigError, LaunchError
from shardtune.known_machine.fingerprint import Identity, identify
from shardtune.known_machine.store import keep_calibration, read_known
from shardtune.launcher.plan.backends import BACKENDS
from shardtune.launcher.plan.job import Machine, RankPlan, plan_ranks
from shardtune.launcher.start import execute
from shardtune.planner.measured.basis import peak_of
from shardtune.planner.measured.calibration import Calibration, CpuLayout, GpuLayout, calibration_of
from shardtune.recipe.load import machine_recipe

MODULE = "shardtune.trainer.commands.planning.calibrate"


def calibrate(ranks: str | None, device: str | None, *, is_json: bool) -> int:
    """Measures, keeps and prints; returns the exit code. `ranks` are numbers with commas between them, as typed; None
    is a single rank, and as many as a run has by default. Raises ConfigError for other words, and LaunchError."""
    machine = execute.find_machine()
    identity = identify(machine.gpu_text)
    known = read_known(identity).calibration or Calibration(identity.fingerprint)
    for plan in plans(machine, ranks, device):
        # After each: what was measured is there even if the next fails.
        known = merged(known, _measured(plan, identity))
        path = _kept(identity, known)
    print(json.dumps(known.as_json() | {"identity": vars(identity)}) if is_json else describe(identity, known, path))
    return 0


def plans(machine: Machine, ranks: str | None, device: str | None) -> list[RankPlan]:
    """The ranks to measure, in the order of their number. Raises ConfigError for what are no numbers above 0."""
    of_device = [] if device is None else [f"job.device={device}"]
    usual = plan_ranks(machine_recipe(of_device), machine).num_ranks
    numbers = sorted({1, usual}) if ranks is None else sorted(set(_numbers(ranks)))
    return [plan_ranks(machine_recipe([*of_device, f"job.ranks={number}"]), machine) for number in numbers]


def _numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise ConfigError(f"shardtune: --ranks takes numbers above 0 with commas between them, as in 1,2, got {text!r}")
    return [int(word) for word in words]


def _measured(plan: RankPlan, identity: Identity) -> Calibration:
    """What these ranks measure. Raises LaunchError if they fail."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "calibration.json"
        words = [MODULE, f"--machine={identity.fingerprint}", f"--began={time.time():.3f}", f"--out={out}"]
        argv = BACKENDS["torchrun"].argv(plan.num_ranks, [*words, f"--device={plan.device}"])
        if execute.run_ranks(argv, plan.environment) or not out.is_file():
            ranks = counted(plan.num_ranks, "rank")
            raise LaunchError(f"plan --calibrate: {ranks} on {plan.device} failed; the lines above say why")
        return calibration_of(json.loads(out.read_text(encoding="utf-8")))


def _kept(identity: Identity, known: Calibration) -> Path:
    """The file that the calibration was written to. Raises LaunchError if it cannot be."""
    try:
        return keep_calibration(identity, known)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LaunchError(f"plan --calibrate: the result cannot be kept: {reason}; set XDG_STATE_HOME") from None


def merged(known: Calibration, new: Calibration) -> Calibration:
    """The known calibration with what is new; of as many ranks the new one."""
    cpus = {layout.ranks: layout for layout in (*known.cpus, *new.cpus)}
    gpus = {layout.ranks: layout for layout in (*known.gpus, *new.gpus)}
    return replace(
        new,
        cpus=tuple(cpus[ranks] for ranks in sorted(cpus)),
        gpus=tuple(gpus[ranks] for ranks in sorted(gpus)),
        disk_gb_s=new.disk_gb_s or known.disk_gb_s,
        tokens_per_s=new.tokens_per_s or known.tokens_per_s,
    )


def describe(identity: Identity, found: Calibration, path: Path) -> str:
    """What was measured, as text."""
    lines = [("machine", str(identity))]
    lines += [("", text) for layout in found.cpus for text in _of_cpus(layout)]
    lines += [("", text) for layout in found.gpus for text in _of_gpus(layout)]
    if found.disk_gb_s:
        lines.append(("disk", f"{found.disk_gb_s:.2g} GB/s to the working directory"))
    if found.tokens_per_s:
        lines.append(("tokenizing", f"{found.tokens_per_s:,.0f} tokens/s on all cores"))
    lines.append(("kept in", str(path)))
    return "\n".join(f"{name:14} {text}" for name, text in lines)


def _of_cpus(layout: CpuLayout) -> Sequence[str]:
    rates = ", ".join(f"{name} {peak_of(found) / 1e9:.0f} GFLOP/s" for name, found in layout.computing.items())
    threads = counted(layout.threads, "thread")
    memory = f"memory {layout.copy_bytes_per_s / 1e9:.1f} GB/s each"
    return [f"{counted(layout.ranks, 'rank')} of {threads}: {rates}, {memory}{_of_links(layout)}"]


def _of_gpus(layout: GpuLayout) -> Sequence[str]:
    rates = ", ".join(f"{name} {rate:.0f} TFLOP/s" for name, rate in layout.tflops.items())
    memory = f"memory {layout.bandwidth_gb_s:,.0f} GB/s, host {layout.host_copy_gb_s:.0f} GB/s"
    return [f"{counted(layout.ranks, 'GPU')}: {rates}, {memory}{_of_links(layout)}"]


def _of_links(layout: CpuLayout | GpuLayout) -> str:
    if layout.links is None:
        return ""
    num_bytes, seconds = layout.links.all_reduce.points[-1]
    return f", all-reduce {num_bytes / seconds / 1e9:.2g} GB/s, latency {layout.links.barrier_s * 1e6:.0f} us"
