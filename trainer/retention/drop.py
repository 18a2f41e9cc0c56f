"""How much worse a retention set has become, against what the recipe accepts. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WITHOUT_SCALE = frozenset({"bleu", "chrf"})
"""Metrics of which higher is better and that are no fractions; of all others higher is better only if they are."""


@dataclass(frozen=True)
class Judge:
    """The main metric of a set, and how much worse it may become."""

    metric: str
    lower_is_better: bool
    limit: float | None
    """None if any drop is accepted."""

    def drop(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> float:
        """How much worse the metric is: the difference of fractions, else relative to what it was before.

        Negative if it is better; inf if one of them is not a finite number.
        """
        was, is_now = before.get(self.metric), now.get(self.metric)
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in (was, is_now)):
            return math.inf
        assert was is not None and is_now is not None
        worse = float(is_now - was) if self.lower_is_better else float(was - is_now)
        if not self.lower_is_better and self.metric not in WITHOUT_SCALE:
            return worse
        return worse / abs(was) if was else math.inf if worse > 0 else 0.0

    def excess(self, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> float:
        """By how much the drop exceeds the limit: 0 if it does not, or if there is no limit, or nothing from before."""
        if self.limit is None or before is None:
            return 0.0
        return max(0.0, self.drop(before, now) - self.limit)
