"""Curves of a row's runs, seed by seed at the steps that all of them logged, and the running mean of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..training.run_plot import smooth
from .results import RowResult

WINDOWS = 12  # of the running mean, side by side over the whole training


@dataclass(frozen=True)
class Series:
    """What several seeds logged at the same steps.

    Attributes:
        steps: ascending.
        values: (seeds, steps).
    """

    steps: tuple[int, ...]
    values: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Over the seeds: (steps,)."""
        return self.values.mean(axis=0)

    def smoothed(self) -> Series:
        """The running mean where its window fits whole.

        A window cut short at the ends would be a single value there, and the line would kink where it is read.
        """
        window = max(1, len(self.steps) // WINDOWS)
        half = window // 2
        kept = slice(half, len(self.steps) - half)
        return Series(self.steps[kept], np.array([smooth(list(one), window)[kept] for one in self.values]))


def seed_series(row: RowResult, key: str) -> Series | None:
    """The row's curves of `key`, one for each run; None where they share no step."""
    found = [{r["step"]: r[key] for r in run.curves() if r.get(key) is not None} for run in row.runs]
    steps = sorted(set.intersection(*(set(one) for one in found))) if found else []
    if not steps:
        return None
    return Series(tuple(steps), np.array([[one[step] for step in steps] for one in found], dtype=float))
