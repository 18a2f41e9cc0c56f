"""Wilson's score interval (Wilson, 1927, "Probable inference, the law of succession, and statistical inference")."""

import math
from statistics import NormalDist


def wilson(share: float, number: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a fraction of `number` independent rows, at least one; right near 0 and 1 too."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    scale = 1 + z * z / number
    center = (share + z * z / (2 * number)) / scale
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number)) / scale
    # At 0 and 1 the formula gives these up to rounding.
    low = 0.0 if share == 0 else max(0.0, center - half)
    return low, 1.0 if share == 1 else min(1.0, center + half)
