"""What the trackers' own readers find: the points of each metric, the settings and the texts of a run."""

import json
import math
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from shardtune.run_dir.trackers.tracker import RunFacts
from shardtune.run_dir.view.tracked import records

Points = dict[str, list[tuple[int, float, float]]]
"""Name of a metric -> (step, time, value), in order."""


class Found(NamedTuple):
    """What a tracker has of the only run that it shows."""

    points: Points
    config: dict[str, str]
    tables: dict[str, list[dict[str, Any]]]
    """Name -> rows of the newest one."""
    texts: list[str]


def expected(events: Iterable[dict[str, Any]]) -> Points:
    """The points that a tracker should have of these events."""
    points: Points = {}
    for record in records(events):
        for name, value in record.values.items():
            if isinstance(value, int | float):
                points.setdefault(name, []).append((record.step, record.time, float(value)))
    return points


def same(found: Points, wanted: Points, *, rel: float = 0.0, renamed: Any = str) -> bool:
    """Whether the points are the same, each once; values within `rel`, times within what a double holds."""
    wanted = {renamed(name): points for name, points in wanted.items()}
    return found.keys() == wanted.keys() and all(
        len(found[name]) == len(points)
        and all(_same(one, other, rel) for one, other in zip(sorted(found[name]), sorted(points), strict=True))
        for name, points in wanted.items()
    )


def _same(one: tuple[int, float, float], other: tuple[int, float, float], rel: float) -> bool:
    both_nan = math.isnan(one[2]) and math.isnan(other[2])
    equal = both_nan or math.isclose(one[2], other[2], rel_tol=rel)
    return one[0] == other[0] and abs(one[1] - other[1]) < 1e-5 and equal


def read_tensorboard(facts: RunFacts) -> Found:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data
    from tensorboard.util.tensor_util import make_ndarray

    reader = EventAccumulator(str(facts.run_dir / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    points = {tag: [(e.step, e.wall_time, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    hparams = reader.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    config = {
        key: str(value.string_value or value.number_value or value.bool_value)
        for key, value in parse_session_start_info_plugin_data(hparams).hparams.items()
    }
    tables, texts = {}, []
    for tag in set(reader.Tags()["tensors"]) - {"config", SESSION_START_INFO_TAG}:
        for event in reader.Tensors(tag):
            cells = make_ndarray(event.tensor_proto)
            if cells.ndim == 2:
                heads, *rows = [[cell.decode() for cell in row] for row in cells]
                tables[tag] = [dict(zip(heads, row, strict=True)) for row in rows]
            else:
                texts.append(cells.item().decode())
    return Found(points, config, tables, texts)


def read_mlflow(facts: RunFacts) -> Found:
    from mlflow import MlflowClient

    client: Any = MlflowClient(tracking_uri=(facts.run_dir.parent / "mlruns").as_uri())
    experiment = client.get_experiment_by_name(facts.project)
    (run,) = client.search_runs([experiment.experiment_id])
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    points = {name: [(m.step, m.timestamp / 1000, m.value) for m in all_] for name, all_ in history.items()}
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    tables = {
        path.parent.relative_to(artifacts).as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(artifacts.rglob("*.json"))
    }
    texts = [path.read_text(encoding="utf-8") for path in sorted(artifacts.rglob("*.txt"))]
    return Found(points, dict(run.data.params), tables, texts)


def read_trackio(facts: RunFacts) -> Found:
    from trackio.sqlite_storage import SQLiteStorage

    storage: Any = SQLiteStorage
    (run,) = storage.get_run_records(facts.project)
    points: Points = {}
    tables = {}
    for row in storage.get_logs(facts.project, facts.name, run_id=run["id"]):
        time = datetime.fromisoformat(row.pop("timestamp")).timestamp()
        step = row.pop("step")
        for name, value in row.items():
            if isinstance(value, dict):
                tables[name] = value["_value"]
            else:
                points.setdefault(name, []).append((step, time, float(value)))
    config = storage.get_run_config(facts.project, facts.name, run_id=run["id"])
    shown = {key: str(value) for key, value in config.items() if not key.startswith("_")}
    alerts = storage.get_alerts(facts.project, run_id=run["id"])
    return Found(points, shown, tables, [f"{alert['title']}: {alert['text']}" for alert in alerts])
