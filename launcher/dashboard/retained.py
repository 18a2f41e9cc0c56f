"""What a run retains of other skills, set by set, against what it learns."""

from collections.abc import Iterator, Mapping
from typing import Any

from shardtune.launcher.dashboard.read.lines import Event
from shardtune.launcher.dashboard.read.run import Run
from shardtune.metrics.direction import is_lower_better
from shardtune.run_dir.quality.retention import NOT_METRICS, RETENTION, is_evaluation, retention_sets, targets_of


def retained(run: Run, results: Mapping[str, Any] | None, best_step: Any) -> dict[str, Any] | None:
    """The retention sets of a run, whose lock is held, and the metric on dev that they are drawn against; None without
    any, or as long as only the ends of its file were read."""
    sets = retention_sets(_evaluations(run), results, best_step)
    if not sets or not run.digest.is_whole:
        return None
    target = target_metric(run, results)
    dev = run.overview.evaluations(f"dev/{target}")
    evaluated = ({"event": "eval", "split": "dev", "step": step, target: value} for step, value in dev.items())
    targets = targets_of(evaluated, target, results)
    return {
        "target": target,
        "target_lower_is_better": is_lower_better(target),
        "sets": [
            {
                "name": each.name,
                "task": each.task,
                "metric": each.metric,
                "lower_is_better": each.lower_is_better,
                "before": each.before,
                "best": each.best,
                "last": each.last,
                "change": each.change,
                "is_worse": each.is_worse,
                "points": [point._asdict() for point in each.trade_off(targets, best_step)],
            }
            for each in sets
        ],
    }


def target_metric(run: Run, results: Mapping[str, Any] | None) -> str:
    """The metric on dev that chooses the best step, or the first one that is not the loss."""
    chosen = (results or {}).get("chosen_by")
    by = chosen.get("metric") if isinstance(chosen, dict) else None
    for metric in (by, run.recipe.get("checkpoint.best_metric")):
        if isinstance(metric, str) and f"dev/{metric}" in run.digest.last:
            return metric
    names = [name.removeprefix("dev/") for name in run.digest.last if name.startswith("dev/")]
    return next((name for name in names if name not in ("loss", "kl_to_base")), "loss")


def _evaluations(run: Run) -> Iterator[Event]:
    """The `retention` events of a run, with their main metric alone."""
    for newest in run.digest.events():
        if newest["event"] == RETENTION and is_evaluation(newest):
            name, metric = newest["set"], newest["metric"]
            shared = {str(key): value for key, value in newest.items() if key in NOT_METRICS}
            for step, value in run.overview.evaluations(f"retention/{name}/{metric}").items():
                yield {**shared, "step": step, metric: value}
