"""The three lines that a run says of its plan before it starts, and what is kept of the plan to compare it later."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from shardtune.planner.forecast.forecast import GIB, Forecast, duration, has_room, resources
from shardtune.planner.measured.corrections import Subject, subject_of
from shardtune.planner.memory import GpuMemory
from shardtune.recipe.schema import Recipe


def brief(forecast: Forecast, *, steps_done: int, now: float) -> Iterator[str]:
    """Whether it fits, when it ends, and what it takes; `now` is in seconds since the epoch."""
    gpu = forecast.cluster.gpu
    of_which = "a rank" if gpu.is_cpu else f"a {gpu.name}"
    used = f"{forecast.memory.used / GIB:.1f} of {gpu.memory_gib:.4g} GiB of {of_which}"
    yield f"{forecast.verdict}: {used}, at the {forecast.memory.peak_instant}"
    num_steps = forecast.planned.num_steps
    if forecast.run is None or num_steps is None:
        yield "its end is not known: the number of training rows is not known before they are read"
        return
    left = forecast.run.total_s * max(0, num_steps - steps_done) / num_steps
    soonest, latest = (_clock(now + seconds, now) for seconds in (left / forecast.spread, left * forecast.spread))
    estimated = ", by the size of the data's files" if forecast.data.is_estimated else ""
    estimated = ", by exact token counts of prepared data" if forecast.data.is_prepared else estimated
    corrected = f", {forecast.correction}" if forecast.correction.spread else ""
    starts = f", in {forecast.run.num_starts} starts with waits between" if forecast.run.num_starts > 1 else ""
    ends = f"{_clock(now + left, now)} ({soonest} to {latest})"
    yield f"ends at about {ends}, in {duration(left)}{starts}{estimated}{corrected}"
    yield f"{resources(forecast)} for the whole run"


def brief_on_cpus(memory: GpuMemory, share: float, why_not: str) -> str:
    """Whether a rank fits into its share of a machine's memory, and why no time is planned."""
    verdict = "fits" if has_room(memory.used, share) else "tight" if memory.used <= share else "does not fit"
    used = f"{memory.used / GIB:.1f} of {share / GIB:.1f} GiB of a rank"
    return f"{verdict}: {used}, at the {memory.peak_instant}; {why_not}"


def warnings(forecast: Forecast, recipe: Recipe) -> Iterator[str]:
    """What will go wrong in a job: memory that is not enough, and a time limit that is too short."""
    if forecast.verdict == "does not fit":
        yield (
            f"warning: {forecast.cluster.world_size} x {forecast.cluster.gpu.name} cannot hold this by the planner; "
            "`shardtune plan` shows what takes the memory"
        )
    run = forecast.run
    if run is None or run.time_limit_s is None:
        return
    needed = run.interval_s + run.saving.stall_s
    if needed > run.time_limit_s:
        yield (
            f"warning: job.time_limit={recipe.job.time_limit} leaves {duration(run.time_limit_s)} of training, and the "
            f"next checkpoint comes after {duration(needed)}; raise it, or lower checkpoint.every_minutes"
        )
    if run.num_starts > run.allowed_starts:
        yield (
            f"warning: the run needs about {run.num_starts} starts under job.time_limit={recipe.job.time_limit}, and "
            f"job.max_requeues allows {run.allowed_starts}"
        )


def record(forecast: Forecast, machine: str | None) -> dict[str, Any]:
    """What plan.json keeps (shardtune/run_dir/view/plan_file.py); `machine` is the fingerprint of this one."""
    memory, correction = forecast.memory, forecast.correction
    # Of GPUs torch says what its tensors take, of CPU ranks the kernel what the process does.
    peak = memory.used if forecast.cluster.gpu.is_cpu else memory.allocated + memory.beyond
    return {
        "device": forecast.cluster.gpu.name,
        "ranks": forecast.cluster.world_size,
        "memory_bytes": round(peak),
        "step_s": forecast.step.total_s,
        "tokens_per_s": forecast.planned.tokens_per_step / forecast.step.total_s,
        "run_s": forecast.run_s,
        "uncorrected_memory_bytes": round(peak - memory.beyond),
        "uncorrected_step_s": forecast.step.total_s / correction.step,
        **_learned_by(subject_of(forecast.planned.average, forecast.strategy), machine),
    }


def record_on_cpus(memory: GpuMemory, subject: Subject, machine: str | None) -> dict[str, Any]:
    """The same of CPU ranks whose time is not planned; their memory is measured as that of the whole process."""
    return {
        "device": "cpu",
        "ranks": memory.world_size,
        "memory_bytes": round(memory.used),
        "uncorrected_memory_bytes": round(memory.used - memory.beyond),
        **_learned_by(subject, machine),
    }


def _learned_by(subject: Subject, machine: str | None) -> Mapping[str, Any]:
    """What later plans need to know of this one."""
    return {} if machine is None else {"machine": machine, "subject": asdict(subject)}


def _clock(moment: float, now: float) -> str:
    """`14:20`, with the date if it is not today's."""
    day, today = (time.strftime("%Y-%m-%d", time.localtime(each)) for each in (moment, now))
    clock = time.strftime("%H:%M", time.localtime(moment))
    return clock if day == today else f"{day} {clock}"
