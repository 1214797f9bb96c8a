"""The verdict on a claim: its differences, and one word for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..stats.intervals import Interval
from ..stats.significance import LOWER, SAME, Significance

Word = Significance | Literal["holds", "does not hold"]


@dataclass(frozen=True)
class Difference:
    """A difference between two rows or groups of runs, positive if it supports the claim.

    Attributes:
        comparison: name of the comparison.
        what: what is compared with what.
        interval: the difference and its interval; None if runs are missing.
        unit: unit of the difference; empty for one without, such as a perplexity.
        word: its significance (`stats.significance`); for a claim that is not tested, whether it holds.
        pair: names of the two rows if the table compares their accuracies; their word is then that of the table.
        other: label of the other method if this is DuDe's margin in accuracy.
        r: rank of both rows of a margin.
        note: what is said after the value.
    """

    comparison: str
    what: str
    interval: Interval | None
    unit: str = "points"
    word: Word = "-"
    pair: tuple[str, str] | None = None
    other: str = ""
    r: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        claim: the claim.
        differences: what it depends on.
    """

    claim: str
    differences: tuple[Difference, ...]

    @property
    def word(self) -> Word:
        """The verdict over all differences."""
        return _together([one.word for one in self.differences])

    @property
    def by_comparison(self) -> dict[str, Word]:
        """Name of a comparison -> the verdict over its differences."""
        comparisons = dict.fromkeys(one.comparison for one in self.differences)
        return {
            comparison: _together([one.word for one in self.differences if one.comparison == comparison])
            for comparison in comparisons
        }


def _together(words: Sequence[Word]) -> Word:
    """A claim holds if every difference is significantly higher, and does not hold if one is significantly lower.

    Otherwise there is no significant difference; `-` while one is missing.
    """
    if not words or "-" in words:
        return "-"
    if LOWER in words or "does not hold" in words:
        return "does not hold"
    return SAME if SAME in words else "holds"
