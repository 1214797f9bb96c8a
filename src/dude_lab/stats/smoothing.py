"""The running mean of all smoothed curves: in figures, in reports, and in claims about losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOWS = 12  # number of windows over a curve


def smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the centred running mean of a curve, over a twelfth of its points.

    Near the ends the window shrinks so that it stays centred; `inside` has the positions with a full window.
    """
    n, half = len(values), _half(len(values))
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    places = np.arange(n)
    radius = np.minimum(half, np.minimum(places, n - 1 - places))
    return (sums[places + radius + 1] - sums[places - radius]) / (2 * radius + 1)


def inside(n: int) -> slice:
    """Return the positions of a curve of `n` points with a full window.

    Values near the ends are means of few points, so a line drawn to them has kinks.
    """
    return slice(_half(n), n - _half(n))


def _half(n: int) -> int:
    return max(1, n // WINDOWS) // 2


@dataclass(frozen=True)
class Series:
    """Curves of several seeds at the same steps.

    Attributes:
        steps: ascending.
        values: (seeds, steps).
    """

    steps: tuple[int, ...]
    values: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over the seeds, (steps,)."""
        return self.values.mean(axis=0)

    def smoothed(self, *, from_start: bool = False) -> Series:
        """Return the running mean of each curve at the positions with a full window.

        With `from_start` also at those before, where the window is smaller: the first value is that of the first step.
        """
        part = inside(len(self.steps))
        part = slice(0, part.stop) if from_start else part
        return Series(self.steps[part], np.array([smooth(one)[part] for one in self.values]))
