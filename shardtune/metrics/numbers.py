"""The value of a metric as a text."""


def metric_text(value: float | None) -> str:
    """Four decimals, or an exponent where these would say nothing; an empty string for None."""
    if value is None:
        return ""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3e}"


def change_text(change: float | None) -> str:
    """The same with its sign: `-0.0300`."""
    return "" if change is None else f"{'+' if change >= 0 else ''}{metric_text(change)}"
