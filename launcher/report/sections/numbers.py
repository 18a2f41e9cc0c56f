"""Numbers as a reader wants them."""

import math
from typing import Any


def shown(value: Any) -> str:
    """A metric: four decimals, or an exponent where these would say nothing; a dash for what is no number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4f}"
    return f"{value:,.1f}" if 1e4 <= abs(value) < 1e9 else f"{value:.3e}"


def in_millions(number: float) -> str:
    """`22.7 million`, `1.54 billion`; smaller numbers in full."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


def in_list(words: list[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
