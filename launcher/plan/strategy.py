"""engine.deepspeed: auto -> a strategy, settled once when a run begins, and kept in its config.yaml."""

from dataclasses import dataclass, replace
from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.launcher.plan.model_and_data import data_size, model_shape, precision_on_cpus
from shardtune.planner.advice.choice import StrategyChoice, choose_on_cpus, choose_strategy, usual_strategy
from shardtune.planner.advice.search import Question
from shardtune.planner.advice.settings import with_strategy
from shardtune.planner.forecast.forecast import GIB
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Cluster
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import AUTO
from shardtune.run_dir.files import CONFIG
from shardtune.run_dir.run import Run, read_config


@dataclass(frozen=True)
class Nodes:
    """The ranks of a job and what they run on."""

    device: str
    ranks_per_node: int
    num_nodes: int
    gpu_name: str | None
    """As the driver says it; None if that is not known."""
    memory: float | None
    """Bytes of host memory of a node; None if that is not known."""


def settle_strategy(run: Run, nodes: Nodes) -> tuple[Run, str | None]:
    """The run with a strategy in the place of engine.deepspeed: auto, and one line on it; as it is, and None, if the
    recipe names one.

    A run that has begun keeps its strategy, on whatever machine it resumes.
    """
    if run.recipe.engine.deepspeed != AUTO:
        return run, None
    kept = _kept(run.run_dir)
    if kept is None:
        choice = choose(run.recipe, run.run_dir, nodes)
    else:
        choice = StrategyChoice(kept.engine.deepspeed, "as when this run began")
    # The file of a run directory that says auto has to be written anew.
    return replace(run, recipe=with_strategy(run.recipe, choice.deepspeed), is_as_kept=False), str(choice)


def _kept(run_dir: Path) -> Recipe | None:
    """The recipe of a run that has begun; None if it has not, or has not settled its strategy."""
    if not (run_dir / CONFIG).is_file():
        return None
    kept = read_config(run_dir)
    return None if kept.engine.deepspeed == AUTO else kept


def choose(recipe: Recipe, run_dir: Path, nodes: Nodes) -> StrategyChoice:
    """The strategy for these ranks, or the default with the reason why nothing can be foreseen."""
    given = recipe.job.memory_per_node_gb
    memory = given * GIB if given else nodes.memory
    if nodes.device == "cpu" and memory is None:
        return usual_strategy("the memory of this machine is not known")
    if nodes.device != "cpu" and nodes.gpu_name is None:
        return usual_strategy("the kind of this machine's GPUs is not known")
    try:
        data = data_size(recipe, run_dir, None, None)
        question = Question(recipe, model_shape(recipe, {}), data, host_limit=memory)
        if nodes.device == "cpu":
            precision = precision_on_cpus(with_strategy(recipe, None))
            return choose_on_cpus(question, precision, num_ranks=nodes.ranks_per_node, num_nodes=nodes.num_nodes)
        gpu = find_gpu(nodes.gpu_name or "")
        return choose_strategy(
            question, Cluster(gpu=gpu, gpus_per_node=nodes.ranks_per_node, num_nodes=nodes.num_nodes)
        )
    except ConfigError as error:
        return usual_strategy(f"the planner cannot tell: {str(error).splitlines()[0].removeprefix('--gpu: ')}")
