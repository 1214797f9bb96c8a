"""The ablation of DuDe: which of its parts does the work, gradient, initialisation or magnitude, and do they add up?

Six methods at one rank. Four have a magnitude: {exact gradient of the norm, norm treated as a constant} x {singular
vectors of the weight, random ones of the same singular values}. Two have none, so no norm and one gradient: PiSSA, and
PiSSA with random vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..compare.results import RowResult, differences
from ..stats import intervals
from ..stats.intervals import Interval
from .paper_tables import ComparisonResult
from .verdict import Difference

EXACT, DETACHED = "DuDe", "DuDe, detached norm"
RANDOM, RANDOM_DETACHED = "DuDe, random vectors", "DuDe, random vectors, detached norm"
PISSA, PISSA_RANDOM = "PiSSA", "PiSSA, random vectors"
ABLATED = (EXACT, DETACHED, RANDOM, RANDOM_DETACHED, PISSA, PISSA_RANDOM)
"""Labels of the six rows in a recipe."""

Pair = tuple[str, str]

EFFECTS: Mapping[str, Sequence[Pair]] = {
    "exact gradient over detached norm": ((EXACT, DETACHED), (RANDOM, RANDOM_DETACHED)),
    "singular vectors of the weight over random ones": (
        (EXACT, RANDOM),
        (DETACHED, RANDOM_DETACHED),
        (PISSA, PISSA_RANDOM),
    ),
    "magnitude over none (exact gradient)": ((EXACT, PISSA), (RANDOM, PISSA_RANDOM)),
}
"""What a part contributes -> the pairs of rows that differ in it alone; their differences are averaged."""

INTERACTIONS: Mapping[str, tuple[Pair, Pair]] = {
    "magnitude x vectors": ((EXACT, RANDOM), (PISSA, PISSA_RANDOM)),
    "gradient x vectors": ((EXACT, DETACHED), (RANDOM, RANDOM_DETACHED)),
}
"""Two parts -> the pairs whose differences are subtracted: what one part adds with the other minus without it."""


def effects(comparison: ComparisonResult) -> list[Difference]:
    """Return what each part contributes in a comparison of the six rows; None where runs are missing."""
    if not _complete_rows(comparison):
        return []
    return [_difference(comparison, what, [(1 / len(pairs), one) for one in pairs]) for what, pairs in EFFECTS.items()]


def interactions(comparison: ComparisonResult) -> list[Difference]:
    """Return the interactions of parts: positive if the two together give more than the sum of each."""
    if not _complete_rows(comparison):
        return []
    return [_difference(comparison, what, [(1.0, a), (-1.0, b)]) for what, (a, b) in INTERACTIONS.items()]


def _complete_rows(comparison: ComparisonResult) -> bool:
    return set(ABLATED) <= {row.label for row in comparison.results.rows}


def _difference(comparison: ComparisonResult, what: str, terms: Sequence[tuple[float, Pair]]) -> Difference:
    rows = {row.label: row for row in comparison.results.rows}
    return Difference(comparison.name, what, _contrast(rows, terms))


def _contrast(rows: Mapping[str, RowResult], terms: Sequence[tuple[float, Pair]]) -> Interval | None:
    """Return the weighted sum of differences with its interval, paired by seed and question; None without runs."""
    found = [(factor, differences(rows[one], rows[other])) for factor, (one, other) in terms]
    if any(one is None for _, one in found):
        return None
    tables, weights, seeds = zip(*(one for _, one in found if one is not None), strict=True)
    if len({tuple(one) for one in seeds}) > 1:
        return None
    summed = [
        np.sum([factor * table for (factor, _), table in zip(found, task, strict=True)], axis=0)
        for task in zip(*tables, strict=True)
    ]
    return intervals.hierarchical_bootstrap(summed, weights=weights[0])
