"""The flags of `shardtune plan` about failures -> what they do to the run."""

from dataclasses import dataclass
from typing import Any

from shardtune.errors import ConfigError
from shardtune.launcher.plan.model_and_data import number_of
from shardtune.planner.forecast.at_scale import PUBLISHED, Endurance, describe, endurance, lives
from shardtune.planner.forecast.forecast import Forecast
from shardtune.planner.scale.simulation import Life
from shardtune.recipe.schema import Recipe


@dataclass(frozen=True)
class Failures:
    """What a run endures, by the source of the rate of failures."""

    found: dict[str, Endurance]
    simulated: dict[str, list[Life]]

    @property
    def are_likely(self) -> bool:
        """Whether one run in a hundred, or more, will have a failure."""
        return any(each.failures >= 0.01 for each in self.found.values())

    def describe(self) -> str:
        """The lines that follow those of the forecast."""
        return "\n".join(f"{name:14} {text}" for name, text in describe(self.found, self.simulated))

    def as_json(self) -> list[dict[str, Any]]:
        """All of it, for programs; without the events of simulated lives."""
        return [
            each.as_json() | {"simulated_goodput": [life.goodput for life in self.simulated.get(source, [])]}
            for source, each in self.found.items()
        ]


def failures_of(
    forecast: Forecast, recipe: Recipe, node_mtbf_hours: str | None, queue_hours: str | None, *, simulates: bool
) -> Failures:
    """What failures do to the run that is forecast: at the rate given, or else at published ones. Raises ConfigError
    for what is no number above 0, and for a run whose steps are not known if a flag asks about it."""
    rates = PUBLISHED
    if node_mtbf_hours is not None:
        rates = {"--node-mtbf-hours": 3600 * number_of(node_mtbf_hours, "--node-mtbf-hours")}
    queue_s = 0.0 if queue_hours is None else 3600 * number_of(queue_hours, "--queue-hours")
    run, nodes = forecast.run, forecast.cluster.num_nodes
    if run is None:
        if node_mtbf_hours is not None or queue_hours is not None or simulates:
            raise ConfigError(
                "shardtune: plan: failures are those of a run whose number of steps is known; give --rows and "
                "--tokens, or train.max_steps"
            )
        return Failures({}, {})
    found = {source: endurance(run, recipe, nodes, rate, queue_s, source) for source, rate in rates.items()}
    simulated = {source: lives(run, recipe, nodes, each, queue_s) for source, each in found.items() if simulates}
    return Failures(found, simulated)
