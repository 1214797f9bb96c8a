"""What the paper claims of each experiment, and whether our runs bear it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..compare.outcome import by_seed, difference
from ..compare.results import RowResult, differences
from ..compare.run_store import Run
from ..stats import intervals
from ..stats.intervals import Interval
from ..stats.significance import adjusted, significance
from ..stats.smoothing import smooth
from .experiments import RIVALS, Experiment
from .paper_tables import PartResult
from .rates import PAIRS, forgiving
from .verdict import Compared, Verdict, Word


def verdicts(experiment: Experiment, parts: Sequence[PartResult]) -> list[Verdict]:
    """Every claim of an experiment."""
    return [_judged(name, CLAIMS[name], parts) for name in experiment.claims]


def _judged(name: str, claim: Claim, parts: Sequence[PartResult]) -> Verdict:
    """The claim's comparisons with their words; the rule is that of `stats.significance`, a part being a table."""
    compared: list[Compared] = []
    for part in parts:
        found = claim.compare(part)
        family = [one for one in found if one.pair is None and not claim.plain]
        words = dict(zip(map(id, family), adjusted([one.interval for one in family]), strict=True))
        for one in found:
            if one.pair is not None:
                compared.append(replace(one, word=part.outcome.word(*one.pair)))
            elif claim.plain:
                compared.append(one)
            else:
                compared.append(replace(one, word=significance(one.interval, words[id(one)])))
    return Verdict(claim.text, tuple(compared))


def _rows(part: PartResult, one: RowResult, other: RowResult) -> Compared:
    """The accuracies of two rows that the part's table compares."""
    pair = (one.name, other.name)
    return Compared(part.name, _against(one, other), part.outcome.pairs.get(pair), pair=pair)


def _pairs(part: PartResult, ours: Sequence[str] = ("dude",), rivals: Sequence[str] = RIVALS) -> Iterator[Any]:
    """(row of ours, row of a rival) of the same rank, in the order of the ranks."""
    for r in dict.fromkeys(row.r for row in part.results.rows if row.method in ours):
        for mine in ours:
            for theirs in rivals:
                one, other = part.row(mine, r), part.row(theirs, r)
                if one is not None and other is not None:
                    yield one, other


def _best(part: PartResult) -> list[Compared]:
    return [replace(_rows(part, one, other), other=other.label, r=one.r) for one, other in _pairs(part)]


def _keeps_more(part: PartResult) -> list[Compared]:
    """At the rate above the best: with the magnitude against without it."""
    pairs = [one for mine, theirs in PAIRS for one in _pairs(part, (mine,), (theirs,))] if part.selection.above else []
    return [_rows(part, one, other) for one, other in pairs]


def _variants(part: PartResult) -> list[Compared]:
    pairs = _pairs(part, ("dude_a", "dude_b"), ("dude",))
    return [_rows(part, one, other) for one, other in pairs]


def _grows(part: PartResult) -> list[Compared]:
    """The lead at the largest rank less that at the smallest."""
    ranks = sorted({row.r for row in part.results.rows if row.r is not None})
    out = []
    for rival in RIVALS:
        rows = [(part.row("dude", r), part.row(rival, r)) for r in (ranks[0], ranks[-1])] if len(ranks) > 1 else []
        if not rows or any(one is None or other is None for one, other in rows):
            continue
        low, high = (differences(one, other) for one, other in rows)  # type: ignore[arg-type]
        interval = None
        if low is not None and high is not None and low[2] == high[2]:
            tables = [b - a for a, b in zip(low[0], high[0], strict=True)]
            interval = intervals.hierarchical_bootstrap(tables, weights=low[1])
        what = f"lead over {rows[0][1].label} at r={ranks[-1]} against r={ranks[0]}"  # type: ignore[union-attr]
        out.append(Compared(part.name, what, interval))
    return out


def _accuracies(row: RowResult) -> list[float]:
    """One for each seed that was asked anything."""
    return [run.accuracy for run in row.runs if run.accuracy is not None]


def _worst(part: PartResult) -> list[Compared]:
    out = []
    for one, other in _pairs(part):
        mine, theirs = _accuracies(one), _accuracies(other)
        what = f"{one.label}'s lowest seed against {other.label}'s highest"
        if len(mine) < 2 or len(mine) != len(theirs):
            out.append(Compared(part.name, what, None))
            continue
        gap = min(mine) - max(theirs)
        word: Word = "holds" if gap > 0 else "does not hold"
        out.append(Compared(part.name, what, Interval(gap, gap, gap), word=word))
    return out


def _steadier(part: PartResult) -> list[Compared]:
    """Brown and Forsythe's test of equal spread; the interval is the difference of the standard deviations alone."""
    from scipy.stats import levene

    out = []
    for one, other in _pairs(part):
        mine, theirs = _accuracies(one), _accuracies(other)
        what = f"standard deviation, {other.label} less {one.label}"
        if min(len(mine), len(theirs)) < 3:
            out.append(Compared(part.name, what, None))
            continue
        gap = float(np.std(theirs, ddof=1) - np.std(mine, ddof=1))
        p = 1.0 if not np.ptp(mine) and not np.ptp(theirs) else float(levene(mine, theirs, center="median").pvalue)
        out.append(Compared(part.name, what, Interval(gap, math.nan, math.nan, p)))
    return out


def losses(run: Any) -> dict[int, float]:
    """Step -> training loss, smoothed (`stats.smoothing`)."""
    found = {one["step"]: one["loss"] for one in run.curves() if one.get("loss") is not None}
    steps = sorted(found)
    return dict(zip(steps, map(float, smooth([found[step] for step in steps])), strict=True))


def _faster(part: PartResult) -> list[Compared]:
    def mean_loss(run: Any) -> float | None:
        found = losses(run)
        return float(np.mean(list(found.values()))) if found else None

    pairs = [(one, other, by_seed(other, one, mean_loss)) for one, other in _pairs(part)]
    return [
        Compared(part.name, f"mean training loss, {other.label} less {one.label}", interval, "nats")
        for one, other, interval in pairs
    ]


def _near_full(part: PartResult) -> list[Compared]:
    full = part.row("full", None)
    if full is None:
        return []
    target = {run.seed: losses(run) for run in full.runs}

    def distance(run: Any) -> float | None:
        mine, whole = losses(run), target.get(run.seed, {})
        shared = [step for step in mine if step in whole]
        return float(np.mean([abs(mine[step] - whole[step]) for step in shared])) if shared else None

    return [
        Compared(
            part.name,
            f"distance to full fine-tuning's loss, {other.label} less {one.label}",
            by_seed(other, one, distance),
            "nats",
        )
        for one, other in _pairs(part)
    ]


def _throughout(part: PartResult) -> list[Compared]:
    def mean_accuracy(run: Any) -> float | None:
        values = [one["accuracy"] for one in run.curves() if one.get("accuracy") is not None]
        return float(np.mean(values)) if values else None

    return [
        Compared(part.name, f"mean accuracy along the training, {_against(a, b)}", by_seed(a, b, mean_accuracy))
        for a, b in _pairs(part)
    ]


def _ladder(part: PartResult) -> list[Compared]:
    """Each rung less the one below it: guessing, the untrained model, LoRA at rank 2, full fine-tuning."""
    base, low, full = part.results.base, part.row("lora", 2), part.row("full", None)
    chance = next((column.chance for column in part.selection.columns[::-1] if column.chance is not None), None)
    over = rises = None
    if base is not None and chance is not None and (found := base.task(base.after["headline"])) is not None:
        over = intervals.normal(found["value"] - chance, found["stderr"])
    if base is not None and low is not None and low.runs:
        untrained = tuple(_as_seed(base, run.seed) for run in low.runs)
        rises = difference(low, replace(low, label="untrained", runs=untrained))
    last = "full fine-tuning against LoRA r=2"
    return [
        Compared(part.name, "untrained against guessing", over),
        Compared(part.name, "LoRA r=2 against untrained", rises),
        replace(_rows(part, full, low), what=last) if full and low else Compared(part.name, last, None),
    ]


def _as_seed(base: Run, seed: int) -> Run:
    """The untrained model as it is with any seed."""
    return replace(base, record={**base.record, "seeds": {"seed": seed}})


def _against(one: RowResult, other: RowResult) -> str:
    return f"{one.name} against {other.label}"


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        text: in our words.
        compare: what it comes to on one part.
        plain: it is looked up, not tested.
    """

    text: str
    compare: Callable[[PartResult], list[Compared]]
    plain: bool = False


CLAIMS = {
    "best": Claim("DuDe has more right than LoRA, DoRA and PiSSA", _best),
    "best_at_each_rank": Claim("DuDe has more right than LoRA, DoRA and PiSSA at every rank", _best),
    "lead_grows": Claim("DuDe's lead is larger at the largest rank than at the smallest", _grows),
    "variants": Claim("The starts DuDe-A and DuDe-B have more right than DuDe's", _variants),
    "worst_above_best": Claim("DuDe's lowest seed is above the highest of every other method", _worst, plain=True),
    "steadier": Claim("DuDe varies less from seed to seed", _steadier),
    "faster": Claim("DuDe's training loss falls faster", _faster),
    "near_full": Claim("DuDe's loss runs nearer to full fine-tuning's", _near_full),
    "ladder": Claim("Guessing < untrained < LoRA r=2 < full fine-tuning", _ladder),
    "forgiving": Claim(
        "Too large a rate costs less with a magnitude: DuDe than PiSSA, DoRA than LoRA", forgiving, plain=True
    ),
    "keeps_more": Claim(
        "With three times the best rate DuDe has more right than PiSSA, and DoRA than LoRA", _keeps_more
    ),
    "ahead_throughout": Claim("DuDe's accuracy leads all along the training", _throughout),
}
