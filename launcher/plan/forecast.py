"""A recipe and the flags of `shardtune plan` -> the forecast."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.known_machine.fingerprint import identify
from shardtune.known_machine.store import Known, read_known
from shardtune.launcher.plan.job import Machine, plan_ranks
from shardtune.launcher.plan.model_and_data import data_size, model_shape, number_of, precision_on_cpus
from shardtune.planner.advice.choice import choose_on_cpus, choose_strategy
from shardtune.planner.advice.search import Question
from shardtune.planner.advice.settings import with_strategy
from shardtune.planner.forecast.forecast import GIB, Forecast, forecast
from shardtune.planner.forecast.on_cpus import OnCpus, Ranks, on_cpus
from shardtune.planner.hardware import Gpu, find_gpu, gpus_of_file
from shardtune.planner.job import Cluster
from shardtune.planner.measured.basis import NOTHING, Basis
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import AUTO
from shardtune.run_dir.run import find_run

USUAL_GPUS = 8
"""GPUs of a node, where neither the recipe nor a flag says."""


@dataclass(frozen=True)
class Machines:
    """The machines that a user asks about, as typed; None where this machine or the recipe says."""

    gpu: str | None
    gpus_per_node: str | None
    nodes: str | None
    network: str | None
    hardware: Path | None

    def own_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs of the user's table. Raises ConfigError if it is none."""
        return gpus_of_file(self.hardware) if self.hardware else ()

    def cluster(self, recipe: Recipe, machine: Machine, *, flag: str = "--gpu") -> Cluster:
        """The machines. Raises ConfigError for a GPU that is not known, which `flag` named, and for numbers that are
        not above 0."""
        name = self.gpu or machine.gpu_name
        assert name is not None, "a forecast needs a GPU"
        here = recipe.job.ranks or (USUAL_GPUS if self.gpu else machine.num_gpus)
        return Cluster(
            gpu=find_gpu(name, self.own_gpus(), flag=flag),
            gpus_per_node=_count(self.gpus_per_node, "--gpus-per-node", recipe.job.gpus_per_node or here),
            num_nodes=_count(self.nodes, "--nodes", recipe.job.nodes),
            network_gb_s=None if self.network is None else number_of(self.network, "--network") / 8,
        )


def _count(text: str | None, flag: str, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"shardtune: {flag} takes a number above 0, got {text!r}")
    return int(text)


@dataclass(frozen=True)
class Inquiry:
    """What a user asks about a recipe, as typed; None where the recipe, its data or this machine say."""

    path: Path
    overrides: Sequence[str]
    run_dir: Path | None
    machines: Machines
    sizes: dict[str, str | None]
    rows: str | None
    tokens: str | None
    price: str | None

    def question(self, machine: Machine) -> Question:
        """The recipe, and what is known of its model, its data and the nodes. Raises ConfigError for a recipe or a flag
        that is wrong, and CheckpointError as find_run."""
        run = find_run(self.path, self.overrides, self.run_dir)
        price = None if self.price is None else number_of(self.price, "--price-per-gpu-hour")
        data = data_size(run.recipe, run.run_dir, self.rows, self.tokens)
        given = run.recipe.job.memory_per_node_gb
        here = None if self.machines.gpu else machine.memory
        return Question(run.recipe, model_shape(run.recipe, self.sizes), data, price, given * GIB if given else here)


def plan_forecast(question: Question, machines: Machines, machine: Machine) -> Forecast:
    """The forecast of the recipe as it is. Raises ConfigError for machines that are not known."""
    recipe = question.recipe
    cluster = machines.cluster(recipe, machine)
    choice = None
    if recipe.engine.deepspeed == AUTO:
        choice = choose_strategy(question, cluster)
        recipe = with_strategy(recipe, choice.deepspeed)
    here = machines.gpu is None and cluster.num_nodes == 1
    basis = basis_of(read_known(identify(machine.gpu_text))) if here else NOTHING
    found = forecast(recipe, question.shape, cluster, question.data, price=question.price, basis=basis)
    return found if choice is None else replace(found, strategy_notice=str(choice))


def cpu_forecast(question: Question, machine: Machine) -> tuple[OnCpus, str | None]:
    """What is foreseen of the recipe on this machine's CPUs, and what is wrong with what is known of the machine.
    Raises ConfigError for a recipe that the planner cannot tell about, LaunchError for one that cannot run here."""
    known = read_known(identify(machine.gpu_text))
    recipe, num_ranks = question.recipe, plan_ranks(question.recipe, machine).num_ranks
    memory = question.host_limit or machine.memory or 0.0
    choice = None
    if recipe.engine.deepspeed == AUTO:
        within = replace(question, host_limit=memory)
        choice = choose_on_cpus(
            within, precision_on_cpus(with_strategy(recipe, None)), num_ranks=num_ranks, num_nodes=recipe.job.nodes
        )
        recipe = with_strategy(recipe, choice.deepspeed)
    ranks = Ranks(num_ranks, precision_on_cpus(recipe), memory / num_ranks)
    found = on_cpus(recipe, question.shape, ranks, question.data, basis_of(known), price=question.price)
    if choice is not None and found.forecast is not None:
        found = replace(found, forecast=replace(found.forecast, strategy_notice=str(choice)))
    return found, known.notice


def basis_of(known: Known) -> Basis:
    """What plans may build on."""
    return Basis(known.calibration, known.runs, known.identity.fingerprint)
