"""The three lines that a run says of its plan before it starts, and what is kept of the plan to compare it later."""

import time
from collections.abc import Iterator
from typing import Any

from shardtune.planner.forecast.forecast import GIB, SPREAD, Forecast, duration, has_room, resources
from shardtune.planner.memory import GpuMemory
from shardtune.recipe.schema import Recipe


def brief(forecast: Forecast, *, steps_done: int, now: float) -> Iterator[str]:
    """Whether it fits, when it ends, and what it takes; `now` is in seconds since the epoch."""
    gpu = forecast.cluster.gpu
    used = f"{forecast.memory.used / GIB:.1f} of {gpu.memory_gib:g} GiB of a {gpu.name}"
    yield f"{forecast.verdict}: {used}, at the {forecast.memory.peak_instant}"
    num_steps = forecast.planned.num_steps
    if forecast.run is None or num_steps is None:
        yield "its end is not known: the number of training rows is not known before they are read"
        return
    left = forecast.run.total_s * max(0, num_steps - steps_done) / num_steps
    soonest, latest = (_clock(now + seconds, now) for seconds in (left / SPREAD, left * SPREAD))
    estimated = ", by the size of the data's files" if forecast.data.is_estimated else ""
    starts = f", in {forecast.run.num_starts} starts with waits between" if forecast.run.num_starts > 1 else ""
    yield f"ends at about {_clock(now + left, now)} ({soonest} to {latest}), in {duration(left)}{starts}{estimated}"
    yield f"{resources(forecast)} for the whole run"


def brief_on_cpus(memory: GpuMemory, share: float) -> str:
    """Whether a rank fits into its share of a machine's memory."""
    verdict = "fits" if has_room(memory.used, share) else "tight" if memory.used <= share else "does not fit"
    used = f"{memory.used / GIB:.1f} of {share / GIB:.1f} GiB of a rank"
    return f"{verdict}: {used}, at the {memory.peak_instant}; time on CPUs is not planned"


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


def record(forecast: Forecast) -> dict[str, Any]:
    """What plan.json keeps (shardtune/run_dir/view/plan_file.py)."""
    return {
        "device": forecast.cluster.gpu.name,
        "ranks": forecast.cluster.world_size,
        "memory_bytes": round(forecast.memory.allocated),
        "step_s": forecast.step.total_s,
        "tokens_per_s": forecast.planned.tokens_per_step / forecast.step.total_s,
        "run_s": forecast.run_s,
    }


def record_on_cpus(memory: GpuMemory) -> dict[str, Any]:
    """The same of CPU ranks, whose memory is measured as that of the whole process."""
    return {"device": "cpu", "ranks": memory.world_size, "memory_bytes": round(memory.used)}


def _clock(moment: float, now: float) -> str:
    """`14:20`, with the date if it is not today's."""
    day, today = (time.strftime("%Y-%m-%d", time.localtime(each)) for each in (moment, now))
    clock = time.strftime("%H:%M", time.localtime(moment))
    return clock if day == today else f"{day} {clock}"
