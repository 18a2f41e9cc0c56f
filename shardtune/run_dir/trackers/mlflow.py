"""MLflow: a run of an experiment, on the server of MLFLOW_TRACKING_URI or in a local folder."""

import json
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import Any

from shardtune.errors import LaunchError
from shardtune.run_dir.trackers.tracker import End, RunFacts, Target, Tracker
from shardtune.run_dir.view.tracked import Record

FOLDER = "mlruns"
"""Beside the run directory, unless another place is given."""
AT_ONCE, PARAMS_AT_ONCE = 1000, 100
"""The most metrics and the most params that MLflow takes in a call."""
MAX_PARAM, MAX_NAME = 500, 250
"""The lengths that every version of MLflow's servers stores."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # read while mlflow is imported
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # by default it tries a server that is down for four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""What holds unless the user has set it."""
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "running": "RUNNING"}


class MlflowTracker(Tracker):
    """A run of the experiment that is named like the project."""

    flags = frozenset({"project", "name", "out", "uri"})
    continues = True

    def __init__(self, facts: RunFacts, target: Target) -> None:
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        folder = (target.out or facts.run_dir.parent / FOLDER).absolute().as_uri()
        uri = target.uri or (os.environ.get("MLFLOW_TRACKING_URI") if target.out is None else None) or folder
        if uri == folder:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no other local store
        if uri.startswith(DATABASES) and find_spec("sqlalchemy") is None:
            raise LaunchError("mlflow: databases need the package mlflow, mlflow-skinny has none; pip install mlflow")
        from mlflow import MlflowClient

        self._facts = facts
        self._client: Any = MlflowClient(tracking_uri=uri)
        # Servers keep metrics under a key of everything that a point says; the files of a folder are appended to.
        self.ignores_repeats = uri.startswith(("http", *DATABASES))
        self.place = f"experiment {facts.project} at {uri}"
        self._run = ""

    def has(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(run).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def delete(self, run: str) -> None:
        self._client.delete_run(run)

    def open(self, run: str | None, began: float) -> str:
        if run is None:
            self._run = self._create(began)
        else:
            self._run = run
            self._client.update_run(run, status="RUNNING")
        return self._run

    def send(self, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        numbers = (
            Metric(mlflow_name(name), value, round(record.time * 1000), record.step)
            for record in records
            for name, value in record.values.items()
            if isinstance(value, int | float)
        )
        for batch in _batches(numbers, AT_ONCE):
            self._client.log_batch(self._run, metrics=batch)
        for record in records:
            for name, value in record.values.items():
                if isinstance(value, int | float):
                    continue
                path = f"{mlflow_name(name)}/step-{record.step:08}-{round(record.time * 1000)}"
                if isinstance(value, str):
                    self._client.log_text(self._run, value, f"{path}.txt")
                else:
                    rows = json.dumps(value, ensure_ascii=False, indent=1)
                    self._client.log_text(self._run, rows, f"{path}.json")

    def close(self, end: End, ended: float) -> None:
        if end == "running":
            self._client.update_run(self._run, status=STATUS[end])
        else:
            self._client.set_terminated(self._run, status=STATUS[end], end_time=round(ended * 1000))

    def _create(self, began: float) -> str:
        from mlflow.entities import Param

        facts, client = self._facts, self._client
        known = client.get_experiment_by_name(facts.project)
        experiment = known.experiment_id if known is not None else client.create_experiment(facts.project)
        tags = {"shardtune.run_dir": str(facts.run_dir)}
        if facts.group is not None:
            tags["shardtune.group"] = facts.group
        run = client.create_run(experiment, start_time=round(began * 1000), tags=tags, run_name=facts.name)
        params = (Param(mlflow_name(key), str(value)[:MAX_PARAM]) for key, value in facts.config.items())
        for batch in _batches(params, PARAMS_AT_ONCE):
            client.log_batch(run.info.run_id, params=batch)
        return str(run.info.run_id)


def mlflow_name(name: str) -> str:
    """The name with what MLflow refuses in names written as `-` and its code point: `R&D` becomes `R-26D`.

    MLflow takes letters of any language, digits, `_`, `-`, `.`, blanks and slashes between them.
    """
    parts = ["".join(c if c.isalnum() or c in "_-. " else f"-{ord(c):x}" for c in part) for part in name.split("/")]
    return "/".join("-" if part in ("", ".", "..") else part for part in parts)[:MAX_NAME]


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch
