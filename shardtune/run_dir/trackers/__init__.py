"""Experiment trackers that the events of a run can be sent to; a new one is a module here and a line in TRACKERS."""

from collections.abc import Iterable
from importlib.util import find_spec

from shardtune.errors import LaunchError
from shardtune.run_dir.trackers.mlflow import MlflowTracker
from shardtune.run_dir.trackers.swanlab import SwanlabTracker
from shardtune.run_dir.trackers.tensorboard import TensorboardTracker
from shardtune.run_dir.trackers.tracker import Tracker
from shardtune.run_dir.trackers.trackio import TrackioTracker

TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorboardTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
    "swanlab": SwanlabTracker,
}
"""Name -> adapter. The name is also that of the package, and of shardtune's extra that installs it."""


def refuse_missing(names: Iterable[str], where: str) -> None:
    """Raises LaunchError if the package of one of these trackers is not installed; `where` is who names them."""
    for name in names:
        if find_spec(name) is None:
            raise LaunchError(f"{where}: the package {name} is not installed; pip install 'shardtune[{name}]'")
