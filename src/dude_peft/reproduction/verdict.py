"""What a claim came to: the comparisons that it is made of, and the word for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..experiments.statistics import Interval

Word = Literal["wins", "cannot be told apart", "loses", "holds", "does not hold", "-"]


@dataclass(frozen=True)
class Compared:
    """DuDe, or a variant of it, against another method.

    Attributes:
        part: name of the part.
        what: who against whom.
        interval: of the difference, above zero where the claim is borne out; None where nothing can be said.
        unit: of the difference.
        word: what it comes to, after Holm's correction among the comparisons of the claim.
        other: label of the other method where it is DuDe's lead in accuracy over it; r: their rank then.
    """

    part: str
    what: str
    interval: Interval | None
    unit: str = "points"
    word: Word = "-"
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
    """All won: wins. One lost: loses. Otherwise they cannot be told apart; `-` while a comparison is missing.

    Claims that are not about who wins hold or do not hold by the same rule.
    """
    if not words or "-" in words:
        return "-"
    bad: tuple[Word, ...] = ("loses", "does not hold", "cannot be told apart")
    return next((word for word in bad if word in words), words[0])
