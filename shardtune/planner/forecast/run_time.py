"""Seconds of a run beside its steps: starts, evaluations, checkpoints, the export; and how many starts it takes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from shardtune.planner.forecast.of_recipe import DataSize, Planned
from shardtune.planner.job import Cluster
from shardtune.planner.scale.goodput import Saving
from shardtune.planner.schedule import PCIE_GB_S, StepTime
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.job import seconds_of

DISK_GB_S = 1.0
"""Rate at which a job writes checkpoints and reads weights, all of its nodes together: a share of a parallel file
system, or a local NVMe disk. Assumed; sites differ by a factor of 10 both ways."""
START_S = 60.0
"""From a start to its first step, without the weights: imports (15 s), CUDA and NCCL, checks, a first pass.
Assumed."""


@dataclass(frozen=True)
class Site:
    """What a job finds where it runs: as assumed, or as it was measured."""

    disk_gb_s: float = DISK_GB_S
    start_s: float = START_S
    copy_gb_s: float = PCIE_GB_S
    """Rate at which a rank copies its part of a checkpoint."""


USUAL_SITE = Site()


@dataclass(frozen=True)
class RunTime:
    """What the time of a run goes to."""

    seconds: Mapping[str, float]
    """`steps`, `evaluations`, `checkpoints`, `export`, `starts` -> seconds of all of them together."""
    num_checkpoints: int
    num_evaluations: int
    num_starts: int
    """Under job.time_limit; 1 without one."""
    interval_s: float
    """Seconds of training between two checkpoints."""
    saving: Saving
    start_s: float
    """From a start, or a failure that is restarted, until training goes on."""
    time_limit_s: float | None
    """Of a start, as far as it may train: without the time to stop. None without a limit."""
    allowed_starts: int
    """As many starts as job.max_requeues allows."""

    @property
    def total_s(self) -> float:
        """Without the time in the queue and failures."""
        return sum(self.seconds.values())

    def describe(self) -> str:
        """The parts in words: `steps 98 %, evaluations 1 %, …; 4 starts under job.time_limit`."""
        parts = [f"{name} {part / self.total_s:.1%}" for name, part in self.seconds.items() if part]
        text = ", ".join(parts)
        if self.num_starts == 1:
            return text
        text += f"; {self.num_starts} starts under job.time_limit, each after a wait in the queue"
        if self.num_starts > self.allowed_starts:
            text += f", but job.max_requeues allows {self.allowed_starts}"
        return text


def run_time(
    recipe: Recipe, planned: Planned, step: StepTime, data: DataSize, cluster: Cluster, site: Site = USUAL_SITE
) -> RunTime | None:
    """The time of the run; None if the number of its steps is not known."""
    if planned.num_steps is None:
        return None
    job, num_steps = planned.average, planned.num_steps
    training, saved = num_steps * step.total_s, job.states.saved * job.num_trained
    evaluations = _num_evaluations(recipe, planned, data)
    each = data.dev_tokens * _seconds_per_token(planned, step, cluster)
    saving = saving_of(recipe, saved, cluster, site)
    num_checkpoints = _num_checkpoints(recipe, num_steps, step.total_s, evaluations)
    interval = training / num_checkpoints
    weights = job.shape.num_parameters * job.states.weight
    load = (weights + saved) / (site.disk_gb_s * 1e9)
    start = site.start_s + load
    seconds = {
        "steps": training,
        "evaluations": evaluations * each + data.test_tokens * _seconds_per_token(planned, step, cluster),
        "checkpoints": num_checkpoints * waiting(saving, interval).stall_s
        + saving.write_s,  # nothing hides the last one
        "export": 2 * weights / (site.disk_gb_s * 1e9),  # the best and the last model
    }
    limit = _usable(recipe, start)
    num_starts = 1 if limit is None else math.ceil(sum(seconds.values()) / limit)
    seconds["starts"] = num_starts * start
    return RunTime(
        seconds=seconds,
        num_checkpoints=num_checkpoints,
        num_evaluations=evaluations,
        num_starts=num_starts,
        interval_s=interval,
        saving=saving,
        start_s=start,
        time_limit_s=limit,
        allowed_starts=recipe.job.max_requeues + 1,
    )


def saving_of(recipe: Recipe, size: float, cluster: Cluster, site: Site = USUAL_SITE) -> Saving:
    """What a checkpoint of so many bytes costs: each rank copies its part to the host's memory, which is written in the
    background."""
    write = size / (site.disk_gb_s * 1e9)
    if not recipe.checkpoint.asynchronous:
        return Saving(stall_s=write)
    return Saving(stall_s=size / cluster.world_size / (site.copy_gb_s * 1e9), write_s=write)


def waiting(saving: Saving, interval_s: float) -> Saving:
    """The same for checkpoints so soon one after another that one waits until the one before is on disk."""
    return replace(saving, stall_s=saving.stall_s + max(0.0, saving.write_s - interval_s))


def _seconds_per_token(planned: Planned, step: StepTime, cluster: Cluster) -> float:
    """Seconds of an evaluation for each token: a forward pass, padded as in training, on all ranks. Generated answers
    are not counted."""
    per_rank = planned.tokens_per_step / cluster.world_size
    return step.forward.total / per_rank / cluster.world_size


def _num_evaluations(recipe: Recipe, planned: Planned, data: DataSize) -> int:
    """Evaluations on dev, the one at the end included."""
    train, num_steps = recipe.train, planned.num_steps or 0
    if recipe.data.dev is None:
        return 0
    every = train.eval_every_steps or _steps_per_epoch(recipe, planned, data) or num_steps
    return math.ceil(num_steps / every) + train.eval_at_start


def _steps_per_epoch(recipe: Recipe, planned: Planned, data: DataSize) -> int | None:
    """None if it is not known how many rows there are."""
    if data.num_rows is None or data.tokens_per_row is None:
        return None
    num_tokens = data.num_rows * recipe.data.fraction * data.tokens_per_row
    return max(1, math.ceil(num_tokens / planned.tokens_per_step))


def _num_checkpoints(recipe: Recipe, num_steps: int, step_s: float, evaluations: int) -> int:
    """Checkpoints that are saved, the last one included; those of a new best besides are not foreseen."""
    config = recipe.checkpoint
    intervals = [config.every_steps] if config.every_steps else []
    intervals += [math.ceil(config.every_minutes * 60 / step_s)] if config.every_minutes else []
    if not intervals:
        return max(1, evaluations)
    return max(1, math.ceil(num_steps / min(intervals)))


def _usable(recipe: Recipe, start_s: float) -> float | None:
    """Seconds of a start in which it trains; None without a time limit. At least a second, so that there is a number of
    starts."""
    if recipe.job.time_limit is None:
        return None
    return max(1.0, seconds_of(recipe.job.time_limit) - recipe.job.stop_lead_s - start_s)
