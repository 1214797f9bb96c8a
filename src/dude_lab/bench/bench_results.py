"""What a measurement says: a median with its quartiles, in a row with its reach."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

# Who is measured: the baseline of all ratios is PEFT's LoRA with its defaults.
DUDE, BASELINE, DORA = "DuDe", "PEFT LoRA", "PEFT DoRA"
HAND, FROZEN, AXIS_IN = "hand-written LoRA", "frozen", "DuDe, axis in"


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return number(self.median)
        return f"{number(self.median)} ({number(self.low)}-{number(self.high)})"


@dataclass(frozen=True)
class Row:
    """One line of the table: DuDe's figure beside its reach, and the same figure of others.

    Attributes:
        part, group, what: of the whole, what is compared with what, and the case: `layer`, `forward + backward, over
            PEFT LoRA`, `float32, 1024 x 1024, 256 tokens`.
        measured: None where nothing was, and then `note` says why.
        n: how many rounds.
        reach: what the median should not exceed, or with `higher_is_better` not fall below.
        others: the same figure of other methods. seconds: medians of each, where it is a ratio of times.
    """

    part: str
    group: str
    what: str
    measured: Spread | None = None
    n: int = 0
    reach: float | None = None
    higher_is_better: bool = False
    others: dict[str, Spread] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def verdict(self) -> str | None:
        """`reached` or `short`, by the median; None without a reach or a measurement."""
        if self.reach is None or self.measured is None:
            return None
        value = self.measured.median
        return "reached" if (value >= self.reach if self.higher_is_better else value <= self.reach) else "short"

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "verdict": self.verdict}


def number(value: float) -> str:
    """So many digits that a reach is told from what is 1% off it."""
    if 0.1 <= abs(value) < 1e5:
        return f"{value:.{3 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"
    return f"{value:.3f}" if 1e-3 <= abs(value) < 0.1 else f"{value:.1e}"


def exactly(value: float) -> Spread:
    """What has no spread: counted, or measured once."""
    return Spread(value, value, value)


def spread(values: list[float]) -> Spread:
    """Median and quartiles."""
    if len(values) == 1:
        return exactly(values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)
