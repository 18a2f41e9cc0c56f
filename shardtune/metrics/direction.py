"""Of which metrics lower values are the better ones: the one table that all pages and trackers go by."""

LOWER_IS_BETTER = frozenset(
    {"loss", "perplexity", "nll", "mse", "mae", "rmse", "wer", "cer", "ter", "ece", "brier", "error", "kl"}
)
"""Words in the names of such metrics: `ece` makes `ece_scaled` one, `kl` makes `kl_to_base` one."""


def is_lower_better(metric: str) -> bool:
    """Whether low values of a metric are good ones, by its name, which may stand behind a section: `eval/dev/loss`."""
    return not LOWER_IS_BETTER.isdisjoint(metric.rpartition("/")[2].split("_"))
