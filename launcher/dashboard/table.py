"""The table of all runs, as the page asks for it."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from shardtune.launcher.dashboard.read.digest import Best, Digest
from shardtune.launcher.dashboard.read.metric_names import EVALUATIONS, group_of, of_evaluation, of_steps
from shardtune.launcher.dashboard.read.recipes import differing_keys
from shardtune.launcher.dashboard.read.run import Run
from shardtune.launcher.dashboard.states import UNREADABLE, state_name
from shardtune.launcher.dashboard.watch import Watch

NOT_READ = "not read yet"
NOT_COMPARED = ("data.cache_dir",)
"""Keys of the recipe that tell nothing of what was trained."""


def table(watch: Watch) -> dict[str, Any]:
    """The answer to /api/runs."""
    version, runs = watch.version, watch.runs()
    recipes = [run.recipe for run in runs]
    keys = [key for key in differing_keys(recipes) if key not in NOT_COMPARED]
    rows = [row(run, keys) for run in runs]
    counts = Counter(metric for run in rows for metric in run["metrics"])
    return {
        "root": str(watch.place),
        "time": time.time(),
        "version": version,
        "recipe_keys": keys,
        "metrics": [
            {"name": metric, "group": group_of(metric), "runs": counts[metric]} for metric in sorted(counts, key=_place)
        ],
        "runs": rows,
    }


def row(run: Run, recipe_keys: Iterable[str]) -> dict[str, Any]:
    """One run of the table."""
    with run.lock:
        status, digest, recipe, fault = run.status, run.digest, run.recipe, run.fault
        last, best = last_values(digest), dict(digest.best)
        use = digest.time_use()
        step, start = digest.newest("step") or {}, digest.newest("start") or {}
        is_whole = digest.is_whole
    is_unreadable = fault is not None
    state = UNREADABLE if is_unreadable else state_name(status) if status is not None else "new"
    why = fault if is_unreadable else (status.why or None) if status is not None else NOT_READ
    return {
        "id": run.id,
        "name": run.name.rpartition("/")[2] if not run.path.name.isdecimal() else run.name,
        "path": run.name,
        "state": state,
        "why": why,
        "step": step.get("step"),
        "steps": start.get("num_steps"),
        "epoch": step.get("epoch"),
        "eta_s": step.get("eta_s") if state == "running" else None,
        "started": digest.first_time,
        "updated": digest.last_time,
        "tokens": round(digest.tokens) if is_whole else None,
        "tokens_per_s": step.get("tokens_per_s"),
        "mfu": step.get("mfu"),
        "goodput": use.goodput if use is not None else None,
        "ranks": start.get("world_size"),
        "task": recipe.get("task.kind"),
        "model": recipe.get("model.path"),
        "metrics": sorted(last),
        "last": last,
        "best": {metric: _best(value) for metric, value in best.items()} if is_whole else {},
        "recipe": {key: recipe[key] for key in recipe_keys if key in recipe},
        "faults": digest.num_alerts if is_whole else None,
        "restarts": max(digest.num_starts - 1, 0) if is_whole else None,
        "checkpoints": run.num_checkpoints,
        "is_whole": is_whole,
    }


def last_values(digest: Digest) -> dict[str, float]:
    """Metric -> its newest value, nan if that is null."""
    values = dict(of_steps(digest.newest("step") or {}))
    for event in digest.events():
        if event["event"] in EVALUATIONS:
            values |= dict(of_evaluation(event))
    return values


def plain(value: Any) -> Any:
    """The value as JSON has it: numbers that are not finite are the strings nan, inf and -inf."""
    if isinstance(value, float):
        return value if math.isfinite(value) else "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int) else str(value)


def _best(best: Best) -> dict[str, Any]:
    return {"value": best.value, "step": best.step, "higher_is_better": best.higher_is_better}


def _place(metric: str) -> tuple[int, str]:
    """The place of a metric among all: by group, with the loss first."""
    order = ("train", "eval", "retention", "perf", "memory", "ranks", "data")
    return order.index(group_of(metric)), metric.replace("/loss", "/")
