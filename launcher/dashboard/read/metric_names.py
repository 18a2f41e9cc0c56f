"""What the numbers of events are called on the page, and in which group they stand."""

from collections.abc import Iterator, Mapping
from typing import Any

from shardtune.launcher.dashboard.read.lines import as_number

GROUPS = {
    "perf": (
        "tokens_per_s", "samples_per_s", "tflops_per_s", "mfu", "step_time_s", "eta_s", "gpu_utilization",
        "gpu_power_w", "gpu_temperature_c",
    ),
    "memory": ("memory_bytes", "memory_reserved_bytes", "memory_retries"),
    "ranks": ("lost_share", "slowest_rank"),
    "data": ("padding_efficiency", "data_wait_s"),
}  # fmt: skip
"""Group -> the keys of `step` events in it; all others are in train."""
NOT_METRICS = ("event", "time", "step", "epoch", "slowest_gpu")
LOWER_IS_BETTER = ("loss", "perplexity", "mse", "mae", "rmse", "ece", "ece_scaled", "kl_to_base")
"""As the tasks of the trainer say."""
_GROUP_OF = {key: group for group, keys in GROUPS.items() for key in keys}


def of_step(key: str) -> str:
    """The name of a key of `step` events: `loss` -> `train/loss`."""
    return f"{_GROUP_OF.get(key, 'train')}/{key}"


def group_of(metric: str) -> str:
    """The group of a metric: train, perf, memory, ranks, data, or eval for those of a split."""
    group = metric.partition("/")[0]
    return group if group == "train" or group in GROUPS else "eval"


def key_of(metric: str) -> str | None:
    """The key of `step` events that has this name; None for a metric of an evaluation."""
    key = metric.partition("/")[2]
    return key if group_of(metric) != "eval" and key and of_step(key) == metric else None


def of_steps(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, number) of each metric of a `step` event; nan for one that is null."""
    for key, value in event.items():
        number = float("nan") if value is None else as_number(value)
        if key not in NOT_METRICS and number is not None:
            yield of_step(key), number


def of_evaluation(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, number) of each metric of an `eval` event: `dev/accuracy`; nan for one that is null."""
    for key, value in event.items():
        if key not in NOT_METRICS and (value is None or isinstance(value, float)):
            yield f"{event.get('split')}/{key}", float("nan") if value is None else value


def is_lower_better(metric: str) -> bool:
    """Whether low values of a metric of an evaluation are good ones."""
    return metric.rpartition("/")[2] in LOWER_IS_BETTER
