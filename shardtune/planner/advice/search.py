"""The fastest setting of a recipe that fits on given machines: all of them are tried."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shardtune.errors import ConfigError
from shardtune.planner.advice.settings import Setting, settings_for
from shardtune.planner.forecast.forecast import GIB, Forecast, forecast
from shardtune.planner.forecast.of_recipe import DataSize
from shardtune.planner.job import Cluster
from shardtune.planner.model_shape import ModelShape
from shardtune.recipe.schema import Recipe

HOST_GIB_PER_GPU = 128
"""Host memory of a node for each GPU, where nobody says: 1 TiB beside 8 GPUs, as in a DGX A100. Assumed."""


@dataclass(frozen=True)
class Question:
    """What settings are searched for."""

    recipe: Recipe
    shape: ModelShape
    data: DataSize
    price: float | None = None
    """Of a GPU for an hour."""
    host_limit: float | None = None
    """Bytes of a node's memory; None assumes HOST_GIB_PER_GPU."""

    def host_bytes(self, cluster: Cluster) -> float:
        """Bytes of memory that a node is taken to have."""
        return self.host_limit or HOST_GIB_PER_GPU * GIB * cluster.gpus_per_node


@dataclass(frozen=True)
class Candidate:
    """A setting and what it would need."""

    setting: Setting
    forecast: Forecast

    @property
    def has_host(self) -> bool:
        """Whether a node has enough memory."""
        return self.host_share <= 1

    @property
    def host_share(self) -> float:
        """The part of a node's memory that is needed."""
        limit = self.forecast.host_limit
        assert limit is not None, "of a candidate the node's memory is known"
        return sum(self.forecast.host.values()) / limit

    @property
    def fits(self) -> bool:
        """Whether there is room for the planner's error on a GPU, and enough memory on a node."""
        return self.forecast.verdict == "fits" and self.has_host

    @property
    def step_s(self) -> float:
        return self.forecast.step.total_s

    @property
    def excess(self) -> float:
        """The part of a GPU's or of a node's memory that is needed, whichever is larger."""
        return max(self.forecast.memory.used / self.forecast.capacity, self.host_share)


@dataclass(frozen=True)
class Searched:
    """All settings on some machines."""

    best: Candidate | None
    """The fastest one that fits."""
    nearest: Candidate
    """The one that needs the smallest part of the memory."""
    others: Sequence[Candidate]
    """The fastest that fits of each other strategy, with and without checkpointing; fastest first."""
    too_large: Sequence[Candidate]
    """The nearest one of each strategy, with and without checkpointing, of which nothing fits; nearest first."""
    num_tried: int


def search(question: Question, cluster: Cluster) -> Searched:
    """The search on these machines. Raises ConfigError if the GPU cannot do what the recipe asks for."""
    found = candidates(question, cluster, settings_for(question.recipe, cluster, question.data))
    groups: dict[tuple[str | None, bool], list[Candidate]] = {}
    for each in found:
        groups.setdefault((each.setting.deepspeed, each.setting.activation_checkpointing), []).append(each)
    # min and sorted keep the first of several that are equally fast: the preferred one.
    fastest = [min(fitting, key=_time) for group in groups.values() if (fitting := [one for one in group if one.fits])]
    fastest.sort(key=_time)
    too_large = [min(group, key=_excess) for group in groups.values() if not any(one.fits for one in group)]
    too_large.sort(key=_excess)
    return Searched(
        fastest[0] if fastest else None, min(found, key=_excess), fastest[1:], too_large, num_tried=len(found)
    )


def candidates(question: Question, cluster: Cluster, settings: Iterable[Setting]) -> list[Candidate]:
    """These settings with their forecasts, without those that the recipe's other keys forbid.

    Raises ConfigError, the first one, if that is all of them.
    """
    found, faults = [], []
    for setting in settings:
        try:
            found.append(candidate(question, cluster, setting))
        except ConfigError as error:
            faults.append(error)
    if not found:
        raise faults[0]
    return found


def candidate(question: Question, cluster: Cluster, setting: Setting) -> Candidate:
    """The setting and its forecast. Raises ConfigError if the GPU or a key of the recipe forbids it."""
    return judged(question, cluster, setting, setting.applied_to(question.recipe))


def judged(question: Question, cluster: Cluster, setting: Setting, recipe: Recipe) -> Candidate:
    """The forecast of a recipe that has this setting, beside it. Raises ConfigError as `forecast`."""
    job = recipe.job.model_copy(update={"memory_per_node_gb": question.host_bytes(cluster) / GIB})
    recipe = recipe.model_copy(update={"job": job})
    return Candidate(setting, forecast(recipe, question.shape, cluster, question.data, price=question.price))


def _time(candidate: Candidate) -> float:
    return candidate.step_s


def _excess(candidate: Candidate) -> float:
    return candidate.excess
