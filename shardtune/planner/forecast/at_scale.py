"""What failures do to a run on many machines: how often it fails, and how much of its time trains."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from shardtune.planner.forecast.forecast import duration
from shardtune.planner.forecast.run_time import RunTime, waiting
from shardtune.planner.scale.goodput import Restart, best_interval, goodput, job_mtbf
from shardtune.planner.scale.simulation import Life, Machines, Plan, simulate
from shardtune.recipe.schema import Recipe

DAY_S = 86400.0
PUBLISHED = {
    "Meta's research clusters": 47.7 * DAY_S,
    "Llama 3": 54 * DAY_S * (16384 / 8) / 419,
}
"""Mean time between failures of a node with 8 GPUs, in seconds. The first: mean time to failure of a job of one node
(Kokolis et al., 2024, "Revisiting Reliability in Large-Scale Machine Learning Research Clusters"); the second: 419
unexpected interruptions in 54 days on 16,384 GPUs (Grattafiori et al., 2024, section 3.3.4)."""
NOTICED_S = 60.0
"""From a failure until it is noticed and the ranks are ended. Assumed."""
NUM_LIVES = 20
"""Seeds of the simulation."""


@dataclass(frozen=True)
class Endurance:
    """A run among failures, for one rate of them."""

    source: str
    """Where the rate is from."""
    node_mtbf_s: float
    job_mtbf_s: float
    interval_s: float
    """Seconds of training between two checkpoints, as the recipe has it."""
    goodput: float
    """The part of the time that trains and is not lost, with that interval."""
    best_interval_s: float
    best_goodput: float
    elapsed_s: float
    """From the first start to the end, with failures and queues."""
    failures: float
    requeues: float
    """Expected waits in the queue after the first: after failures, and under the time limit."""

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {**vars(self)}


def endurance(
    run: RunTime, recipe: Recipe, num_nodes: int, node_mtbf_s: float, queue_s: float, source: str
) -> Endurance:
    """The run on so many nodes, each of which fails once in node_mtbf_s on average.

    A job that has lost one of several nodes goes on with the others (job.on_lost_node: shrink); one of a single node,
    or with on_lost_node: requeue, waits in the queue for queue_s.
    """
    mtbf = job_mtbf(node_mtbf_s, num_nodes)
    restarts = _restarts(run, recipe, num_nodes, queue_s)
    best = best_interval(run.saving, mtbf)
    now, most = (goodput(each, waiting(run.saving, each), restarts, mtbf) for each in (run.interval_s, best))
    beside = run.total_s - run.seconds["steps"] - run.seconds["checkpoints"]
    running = run.seconds["steps"] / now + beside
    failures, elapsed = running / mtbf, running + (run.num_starts - 1) * queue_s
    requeues = failures * (1 - _in_place(recipe, num_nodes)) + run.num_starts - 1
    return Endurance(source, node_mtbf_s, mtbf, run.interval_s, now, best, most, elapsed, failures, requeues)


def _in_place(recipe: Recipe, num_nodes: int) -> float:
    """The part of the failures after which the job goes on in its allocation."""
    return 1.0 if num_nodes > 1 and recipe.job.on_lost_node == "shrink" else 0.0


def _restarts(run: RunTime, recipe: Recipe, num_nodes: int, queue_s: float) -> list[Restart]:
    wait = queue_s * (1 - _in_place(recipe, num_nodes))
    return [Restart(1.0, NOTICED_S + run.start_s + wait)]


def lives(run: RunTime, recipe: Recipe, num_nodes: int, found: Endurance, queue_s: float) -> list[Life]:
    """The run simulated event by event, for NUM_LIVES seeds."""
    machines = Machines(
        num_nodes,
        found.node_mtbf_s,
        in_place=_in_place(recipe, num_nodes),
        restart_s=NOTICED_S + run.start_s,
        queue_s=queue_s,
    )
    limit = {} if run.time_limit_s is None else {"time_limit_s": run.time_limit_s + run.start_s}
    plan = Plan(run.interval_s, run.saving, **limit)
    return [simulate(machines, plan, horizon_s=found.elapsed_s, seed=seed) for seed in range(NUM_LIVES)]


def describe(found: Mapping[str, Endurance], simulated: Mapping[str, list[Life]]) -> Iterator[tuple[str, str]]:
    """(name, text) of the lines of `shardtune plan`, by source of the rate of failures."""
    for number, (source, each) in enumerate(found.items()):
        yield (
            "" if number else "failures",
            f"{each.failures:.2g} expected, {each.requeues:.2g} requeues, if a node fails once in "
            f"{duration(each.node_mtbf_s)} ({source}); goodput {each.goodput:.1%} with a checkpoint every "
            f"{duration(each.interval_s)} of training, at best {each.best_goodput:.1%} with one every "
            f"{duration(each.best_interval_s)}",
        )
        if each_life := simulated.get(source):
            goodputs = [life.goodput for life in each_life]
            stops = fmean(life.counts.get("failure", 0) for life in each_life)
            yield (
                "",
                f"simulated: goodput {fmean(goodputs):.1%} ({min(goodputs):.1%} to {max(goodputs):.1%} in "
                f"{len(goodputs)} lives), {stops:.2g} failures; starts and queues included",
            )
