"""The rule of significance of `dude compare` and `dude reproduce`.

The differences of one quantity in one table are a family: for accuracies, all pairs of rows that the table compares;
for anything else (losses, spread, growth of a margin), the differences of the claim in that table. Within a family
p-values are adjusted by Holm's method, and a difference is significant at an adjusted p below 0.05. There is no
correction across families, and intervals are not adjusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from .intervals import Interval

ALPHA = 0.05

Significance = Literal["significantly higher", "significantly lower", "no significant difference", "-"]
HIGHER: Significance = "significantly higher"
LOWER: Significance = "significantly lower"
SAME: Significance = "no significant difference"
UNKNOWN: Significance = "-"
SIGNIFICANT = (HIGHER, LOWER)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons (Holm 1979), in the same order; NaN stays NaN."""
    known = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    running = 0.0
    for rank, (p, k) in enumerate(known):
        running = max(running, min(1.0, (len(known) - rank) * p))
        adjusted[k] = running
    return adjusted


def adjusted(family: Sequence[Interval | None]) -> list[float]:
    """Return the Holm-adjusted p-values of a family of differences; NaN for None."""
    return holm([math.nan if one is None else one.p for one in family])


def significance(interval: Interval | None, p: float) -> Significance:
    """Return the verdict on a difference with the adjusted p-value `p`."""
    if interval is None or math.isnan(p):
        return UNKNOWN
    if p >= ALPHA:
        return SAME
    return HIGHER if interval.estimate > 0 else LOWER
