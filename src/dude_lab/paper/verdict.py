"""What a claim came to: the comparisons that it is made of, and the word for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..stats.intervals import Interval
from ..stats.significance import LOWER, SAME, Significance

Word = Significance | Literal["holds", "does not hold"]


@dataclass(frozen=True)
class Compared:
    """DuDe, or a variant of it, against another method.

    Attributes:
        part: name of the part.
        what: who against whom.
        interval: of the difference, above zero where the claim is borne out; None where nothing can be said.
        unit: of the difference.
        word: what it comes to (`stats.significance`); of what is looked up and not tested, whether it holds.
        pair: the rows whose accuracies are compared, where the table compares them; their word is that of the table.
        other: label of the other method where it is DuDe's lead in accuracy over it; r: their rank then.
    """

    part: str
    what: str
    interval: Interval | None
    unit: str = "points"
    word: Word = "-"
    pair: tuple[str, str] | None = None
    other: str = ""
    r: int | None = None


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    Attributes:
        claim: what the paper says, in our words.
        compared: each comparison.
    """

    claim: str
    compared: tuple[Compared, ...]

    @property
    def word(self) -> Word:
        """Of all comparisons together."""
        return _together([one.word for one in self.compared])

    @property
    def by_part(self) -> dict[str, Word]:
        """Part -> the word of its comparisons."""
        parts = dict.fromkeys(one.part for one in self.compared)
        return {part: _together([one.word for one in self.compared if one.part == part]) for part in parts}


def _together(words: Sequence[Word]) -> Word:
    """A claim holds where every comparison is significantly higher, and does not hold where one is significantly lower.

    Otherwise there is no significant difference; `-` while a comparison is missing.
    """
    if not words or "-" in words:
        return "-"
    if LOWER in words or "does not hold" in words:
        return "does not hold"
    return SAME if SAME in words else "holds"
