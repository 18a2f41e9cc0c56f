"""A job's life, event by event: failures, preemption, stragglers, slow saves, queues. What trains, and what is lost.

The failures of many independent nodes are together a Poisson process of their summed rate, so that 16,384 GPUs take no
longer to simulate than 8. Times are seconds.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from shardtune.planner.scale.goodput import Saving

NEVER = math.inf
CAUSES = ("useful", "repeated", "straggling", "saving", "restarting", "queueing")
"""What a job's time goes to: training that counts; training that a failure undid; waiting for a slow node; waiting for
checkpoints; from a failure until training goes on; waiting in the queue."""


@dataclass(frozen=True)
class Machines:
    """How a job's nodes behave."""

    num_nodes: int
    node_mtbf_s: float = NEVER
    """Mean time between the failures of one node."""
    in_place: float = 0.0
    """The part of the failures after which the job restarts within its allocation; the others requeue it."""
    restart_s: float = 0.0
    """From a failure, or from leaving the queue, until training goes on."""
    queue_s: float = 0.0
    """Mean wait in the queue; exponentially distributed."""
    preemption_s: float = NEVER
    """Mean time between preemptions of the job, which saves a checkpoint and is requeued."""
    straggler_s: float = NEVER
    """Mean time after which a node becomes slow, for one node."""
    straggler_factor: float = 1.0
    """A step takes this many times as long while a node is slow."""
    straggler_lasts_s: float = 0.0
    """How long it is slow, until it is noticed and replaced."""


@dataclass(frozen=True)
class Plan:
    """When the job saves, and for how long it may run."""

    interval_s: float
    """Seconds of training at full speed between two checkpoints."""
    saving: Saving
    slow_save_chance: float = 0.0
    """How often a save takes slow_save_factor times as long, because the file system is busy."""
    slow_save_factor: float = 1.0
    time_limit_s: float = NEVER
    """The site's limit on a job, which then saves and is requeued."""


@dataclass(frozen=True)
class Life:
    """What became of the simulated time."""

    seconds: Mapping[str, float]
    """By cause (CAUSES)."""
    counts: Mapping[str, int]
    """Events by name: failure, preemption, time_limit, straggler, save."""

    @property
    def goodput(self) -> float:
        """The part of the time that is useful, the queue included."""
        return self.seconds["useful"] / sum(self.seconds.values())


def simulate(machines: Machines, plan: Plan, *, horizon_s: float, seed: int) -> Life:
    """The life of a job that has more work than the horizon; the same for the same seed."""
    return _Job(machines, plan, random.Random(seed), horizon_s).live()


@dataclass
class _Job:
    machines: Machines
    plan: Plan
    random: random.Random
    horizon_s: float
    now: float = 0.0
    done: float = 0.0
    """Training since the beginning, in seconds at full speed."""
    saved: float = 0.0
    """The part of it that is on disk."""
    writing: tuple[float, float] | None = None
    """When the checkpoint that is being written will be on disk, and the training that it holds."""
    interruption: float = NEVER
    """When the next failure or the end of the allocation comes, whichever is first."""
    slow_until: float = 0.0
    next_slow: float = NEVER
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: Counter[str] = field(default_factory=Counter)

    def live(self) -> Life:
        while self.now < self.horizon_s:
            self._run_an_allocation()
        return Life({cause: self.seconds[cause] for cause in CAUSES}, dict(self.counts))

    def _run_an_allocation(self) -> None:
        """From the start of an allocation until that of the next one."""
        preemption = self.now + self._draw(self.machines.preemption_s)
        limit = self.now + self.plan.time_limit_s
        end, reason = min((preemption, "preemption"), (limit, "time_limit"), (self.horizon_s, "horizon"))
        self.slow_until = 0.0
        while True:
            failure = self.now + self._draw(self.machines.node_mtbf_s / self.machines.num_nodes)
            self.interruption = min(failure, end)
            if self._pass("restarting", self.machines.restart_s):
                self._train()
            if end <= failure:
                self._leave(reason)
                return
            self._fail()
            if self.random.random() >= self.machines.in_place:
                self._queue()
                return

    def _train(self) -> None:
        """Trains, with checkpoints, until the interruption."""
        self.next_slow = self.now + self._draw(self.machines.straggler_s / self.machines.num_nodes)
        while self._compute(self.done + self.plan.interval_s):
            if self.writing is not None and not self._pass("saving", self.writing[0] - self.now):
                return
            slower = self.plan.slow_save_factor if self.random.random() < self.plan.slow_save_chance else 1.0
            if not self._pass("saving", slower * self.plan.saving.stall_s):
                return
            self._settle()
            self.writing = (self.now + slower * self.plan.saving.write_s, self.done)
            self.counts["save"] += 1

    def _compute(self, target: float) -> bool:
        """Trains until so much is done; False if it is interrupted before."""
        while (left := target - self.done) > 1e-9:
            if self.now >= self.next_slow:
                self.counts["straggler"] += 1
                self.slow_until = self.now + self.machines.straggler_lasts_s
                self.next_slow = self.now + self._draw(self.machines.straggler_s / self.machines.num_nodes)
            factor = self.machines.straggler_factor if self.now < self.slow_until else 1.0
            change = min(time for time in (self.slow_until, self.next_slow, self.interruption) if time > self.now)
            elapsed = min(left * factor, change - self.now)
            self.now = change if elapsed < left * factor else self.now + elapsed
            self.done += elapsed / factor
            self.seconds["useful"] += elapsed / factor
            self.seconds["straggling"] += elapsed - elapsed / factor
            if self.now >= self.interruption:
                return False
        return True

    def _pass(self, cause: str, seconds: float) -> bool:
        """Spends this time without training; False if it is interrupted before."""
        end = min(self.now + max(0.0, seconds), self.interruption)
        self.seconds[cause] += end - self.now
        self.now = end
        return self.now < self.interruption

    def _settle(self) -> None:
        """Counts a checkpoint that is on disk by now as saved."""
        if self.writing is not None and self.writing[0] <= self.now:
            self.saved, self.writing = self.writing[1], None

    def _fail(self) -> None:
        """Goes back to what is on disk."""
        self.counts["failure"] += 1
        self._settle()
        self.seconds["useful"] -= self.done - self.saved
        self.seconds["repeated"] += self.done - self.saved
        self.done, self.writing = self.saved, None

    def _leave(self, reason: str) -> None:
        """Saves, and waits for the next allocation, unless the time that is looked at is over."""
        if reason == "horizon":
            return
        self.counts[reason] += 1
        self.interruption = self.horizon_s
        self._pass("saving", self.plan.saving.stall_s + self.plan.saving.write_s)
        self.saved, self.writing = self.done, None
        self._queue()

    def _queue(self) -> None:
        self.interruption = self.horizon_s
        self._pass("queueing", self._draw(self.machines.queue_s) if self.machines.queue_s else 0.0)

    def _draw(self, mean_s: float) -> float:
        """A time until an event that comes at a constant rate."""
        return NEVER if mean_s == NEVER else self.random.expovariate(1 / mean_s)
