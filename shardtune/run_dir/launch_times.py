"""When a launcher or a batch job began, as it tells its ranks by the environment."""

from collections.abc import Mapping

LAUNCHED_AT = "SHARDTUNE_LAUNCHED_AT"
"""When `shardtune run`, or this start of the batch job, began, in seconds since the epoch; restarts keep it."""
QUEUED_AT = "SHARDTUNE_QUEUED_AT"
"""When the scheduler was given the job, or took it back into the queue, in seconds since the epoch."""


def launch_times(environment: Mapping[str, str]) -> dict[str, float]:
    """The entries `launched` and `queued` of a `begin` event, as far as the environment has them."""
    names = {"launched": LAUNCHED_AT, "queued": QUEUED_AT}
    return {key: float(environment[name]) for key, name in names.items() if environment.get(name)}
