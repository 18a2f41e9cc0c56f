"""engine.deepspeed: auto -> the fastest strategy that fits, and why."""

from dataclasses import dataclass

from shardtune.errors import ConfigError
from shardtune.planner.advice.search import Candidate, Question, judged
from shardtune.planner.advice.settings import Setting, strategies_for, with_strategy
from shardtune.planner.forecast.forecast import GIB, duration
from shardtune.planner.forecast.of_recipe import job_of, memory_on_cpus
from shardtune.planner.hardware import CPU, memory_only
from shardtune.planner.job import Cluster
from shardtune.recipe.sections.engine import EngineConfig

ON_CPUS = (None, "zero1", "zero2", "zero3")
"""What CPU ranks choose from: the first that fits. zero0 holds as much as null, and offloading has nowhere to go."""
CPU_SHARE = 0.8
"""The part of a machine's memory that the ranks may fill; the rest is for the launcher, the data and the cache of
files."""


@dataclass(frozen=True)
class StrategyChoice:
    """What engine.deepspeed: auto stands for in a run."""

    deepspeed: str | None
    reason: str

    def __str__(self) -> str:
        return f"engine.deepspeed: auto is {self.deepspeed or 'null'}: {self.reason}"


def usual_strategy(reason: str) -> StrategyChoice:
    """The default of recipes, where nothing can be foreseen for this reason."""
    default = EngineConfig().deepspeed
    return StrategyChoice(default, f"the default, because {reason}")


def choose_strategy(question: Question, cluster: Cluster) -> StrategyChoice:
    """The fastest strategy that fits on GPUs, with the recipe's own micro-batches and checkpointing. Raises ConfigError
    if no strategy can do what the recipe asks for on this GPU."""
    found, faults = [], []
    recipe = question.recipe
    for deepspeed in strategies_for(recipe, cluster):
        setting = Setting(deepspeed, 0, recipe.model.activation_checkpointing)
        try:
            found.append(judged(question, cluster, setting, with_strategy(recipe, deepspeed)))
        except ConfigError as error:
            faults.append(error)
    if not found:
        raise faults[0]
    fitting = [one for one in found if one.fits]
    if not fitting:
        nearest = min(found, key=lambda one: one.excess)
        return StrategyChoice(
            nearest.setting.deepspeed,
            f"nothing fits by the planner, and this needs the least, {_memory(nearest)} (see shardtune plan --auto)",
        )
    best = min(fitting, key=lambda one: one.step_s)
    rest = "it alone fits" if len(fitting) == 1 else f"the fastest of {len(fitting)} that fit"
    return StrategyChoice(best.setting.deepspeed, f"{rest}, {_memory(best)}, {duration(best.step_s)} a step")


def _memory(candidate: Candidate) -> str:
    return f"{candidate.forecast.memory.used / GIB:.1f} of {candidate.forecast.capacity / GIB:g} GiB per GPU"


def choose_on_cpus(question: Question, precision: str, *, num_ranks: int, num_nodes: int) -> StrategyChoice:
    """The first of ON_CPUS that fits on this many ranks a node, which compute in this precision, in the node's memory
    that the question says."""
    assert question.host_limit is not None, "CPU ranks have the memory of their node"
    share = question.host_limit * CPU_SHARE / num_ranks
    cpus = Cluster(gpu=memory_only(CPU, share), gpus_per_node=num_ranks, num_nodes=num_nodes)
    possible = strategies_for(question.recipe, cpus)
    needed: dict[str | None, float] = {}
    for deepspeed in (name for name in ON_CPUS if name in possible):
        needed[deepspeed] = _bytes_on_cpu(question, deepspeed, cpus, precision)
        if needed[deepspeed] <= share:
            each = f"{needed[deepspeed] / GIB:.1f} of {share / GIB:.1f} GiB of each rank"
            what = "a whole copy fits" if deepspeed is None else "the lowest ZeRO stage that fits"
            return StrategyChoice(deepspeed, f"{what}, {each}")
    least = min(needed, key=lambda name: needed[name])
    each = f"{needed[least] / GIB:.1f} of {share / GIB:.1f} GiB of each rank"
    return StrategyChoice(least, f"nothing fits by the planner, and this needs the least, {each}")


def _bytes_on_cpu(question: Question, deepspeed: str | None, cluster: Cluster, precision: str) -> float:
    """Bytes of a rank at its peak, with a copy of the checkpoint."""
    recipe = with_strategy(question.recipe, deepspeed)
    job = job_of(recipe, question.shape, cluster, precision)
    copied = job.states.saved * job.num_trained / cluster.world_size if recipe.checkpoint.asynchronous else 0.0
    return memory_on_cpus(recipe, question.shape, cluster, precision).used + copied
