"""What the paper claims in each experiment, and whether the runs confirm it."""

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
from . import ablation
from .experiments import BASELINES, Experiment
from .paper_tables import ComparisonResult
from .rates import PAIRS, forgiving
from .verdict import Difference, Verdict, Word


def verdicts(experiment: Experiment, comparisons: Sequence[ComparisonResult]) -> list[Verdict]:
    """Return the verdict on every claim of an experiment."""
    return [_judged(name, CLAIMS[name], comparisons) for name in experiment.claims]


def _judged(name: str, claim: Claim, comparisons: Sequence[ComparisonResult]) -> Verdict:
    """Judge every difference of a claim by the rule of `stats.significance`, with one family for each comparison."""
    judged: list[Difference] = []
    for comparison in comparisons:
        found = claim.compare(comparison)
        family = [one for one in found if one.pair is None and not claim.plain]
        words = dict(zip(map(id, family), adjusted([one.interval for one in family]), strict=True))
        for one in found:
            if one.pair is not None:
                judged.append(replace(one, word=comparison.outcome.word(*one.pair)))
            elif claim.plain:
                judged.append(one)
            else:
                judged.append(replace(one, word=significance(one.interval, words[id(one)])))
    return Verdict(claim.text, tuple(judged))


def _rows(comparison: ComparisonResult, one: RowResult, other: RowResult) -> Difference:
    """Compare the accuracies of two rows of a table."""
    pair = (one.name, other.name)
    return Difference(comparison.name, _against(one, other), comparison.outcome.pairs.get(pair), pair=pair)


def _pairs(
    comparison: ComparisonResult, ours: Sequence[str] = ("dude",), baselines: Sequence[str] = BASELINES
) -> Iterator[Any]:
    """Yield (row of DuDe or a variant, row of a baseline) of the same rank, rank by rank."""
    for r in dict.fromkeys(row.r for row in comparison.results.rows if row.method in ours):
        for mine in ours:
            for theirs in baselines:
                one, other = comparison.row(mine, r), comparison.row(theirs, r)
                if one is not None and other is not None:
                    yield one, other


def _best(comparison: ComparisonResult) -> list[Difference]:
    return [replace(_rows(comparison, one, other), other=other.label, r=one.r) for one, other in _pairs(comparison)]


def _keeps_more(comparison: ComparisonResult) -> list[Difference]:
    """At the learning rate above the best: with the magnitude against without."""
    pairs = (
        [one for mine, theirs in PAIRS for one in _pairs(comparison, (mine,), (theirs,))]
        if comparison.spec.above
        else []
    )
    return [_rows(comparison, one, other) for one, other in pairs]


def _variants(comparison: ComparisonResult) -> list[Difference]:
    pairs = _pairs(comparison, ("dude_a", "dude_b"), ("dude",))
    return [_rows(comparison, one, other) for one, other in pairs]


def _grows(comparison: ComparisonResult) -> list[Difference]:
    """The margin at the largest rank minus that at the smallest."""
    ranks = sorted({row.r for row in comparison.results.rows if row.r is not None})
    out = []
    for baseline in BASELINES:
        rows = (
            [(comparison.row("dude", r), comparison.row(baseline, r)) for r in (ranks[0], ranks[-1])]
            if len(ranks) > 1
            else []
        )
        if not rows or any(one is None or other is None for one, other in rows):
            continue
        low, high = (differences(one, other) for one, other in rows)  # type: ignore[arg-type]
        interval = None
        if low is not None and high is not None and low[2] == high[2]:
            tables = [b - a for a, b in zip(low[0], high[0], strict=True)]
            interval = intervals.hierarchical_bootstrap(tables, weights=low[1])
        what = f"margin over {rows[0][1].label} at r={ranks[-1]} against r={ranks[0]}"  # type: ignore[union-attr]
        out.append(Difference(comparison.name, what, interval))
    return out


def _accuracies(row: RowResult) -> list[float]:
    """Return the accuracy of each seed."""
    return [run.accuracy for run in row.runs if run.accuracy is not None]


def _worst(comparison: ComparisonResult) -> list[Difference]:
    out = []
    for one, other in _pairs(comparison):
        mine, theirs = _accuracies(one), _accuracies(other)
        what = f"{one.label}'s worst seed against {other.label}'s best"
        if len(mine) < 2 or len(mine) != len(theirs):
            out.append(Difference(comparison.name, what, None))
            continue
        gap = min(mine) - max(theirs)
        word: Word = "holds" if gap > 0 else "does not hold"
        out.append(Difference(comparison.name, what, Interval(gap, gap, gap), word=word))
    return out


def _steadier(comparison: ComparisonResult) -> list[Difference]:
    """Test equal spread (Brown and Forsythe); the interval has no ends, only the difference of standard deviations."""
    from scipy.stats import levene

    out = []
    for one, other in _pairs(comparison):
        mine, theirs = _accuracies(one), _accuracies(other)
        what = f"standard deviation, {other.label} minus {one.label}"
        if min(len(mine), len(theirs)) < 3:
            out.append(Difference(comparison.name, what, None))
            continue
        gap = float(np.std(theirs, ddof=1) - np.std(mine, ddof=1))
        p = 1.0 if not np.ptp(mine) and not np.ptp(theirs) else float(levene(mine, theirs, center="median").pvalue)
        out.append(Difference(comparison.name, what, Interval(gap, math.nan, math.nan, p)))
    return out


def losses(run: Any) -> dict[int, float]:
    """Return step -> training loss, smoothed (`stats.smoothing`)."""
    found = {one["step"]: one["loss"] for one in run.curves() if one.get("loss") is not None}
    steps = sorted(found)
    return dict(zip(steps, map(float, smooth([found[step] for step in steps])), strict=True))


def _faster(comparison: ComparisonResult) -> list[Difference]:
    def mean_loss(run: Any) -> float | None:
        found = losses(run)
        return float(np.mean(list(found.values()))) if found else None

    pairs = [(one, other, by_seed(other, one, mean_loss)) for one, other in _pairs(comparison)]
    return [
        Difference(comparison.name, f"mean training loss, {other.label} minus {one.label}", interval, "nats")
        for one, other, interval in pairs
    ]


def _near_full(comparison: ComparisonResult) -> list[Difference]:
    full = comparison.row("full", None)
    if full is None:
        return []
    target = {run.seed: losses(run) for run in full.runs}

    def distance(run: Any) -> float | None:
        mine, full_losses = losses(run), target.get(run.seed, {})
        shared = [step for step in mine if step in full_losses]
        return float(np.mean([abs(mine[step] - full_losses[step]) for step in shared])) if shared else None

    return [
        Difference(
            comparison.name,
            f"distance to full fine-tuning's loss, {other.label} minus {one.label}",
            by_seed(other, one, distance),
            "nats",
        )
        for one, other in _pairs(comparison)
    ]


def _lower_validation_loss(comparison: ComparisonResult) -> list[Difference]:
    pairs = [(one, other, by_seed(other, one, lambda run: run.validation_loss)) for one, other in _pairs(comparison)]
    return [
        Difference(comparison.name, f"validation loss, {other.label} minus {one.label}", interval, "nats")
        for one, other, interval in pairs
    ]


def _throughout(comparison: ComparisonResult) -> list[Difference]:
    def mean_accuracy(run: Any) -> float | None:
        values = [one["accuracy"] for one in run.curves() if one.get("accuracy") is not None]
        return float(np.mean(values)) if values else None

    return [
        Difference(comparison.name, f"mean accuracy during training, {_against(a, b)}", by_seed(a, b, mean_accuracy))
        for a, b in _pairs(comparison)
    ]


def _forgets_less(comparison: ComparisonResult) -> list[Difference]:
    """The perplexity of a text that was not trained on: the other's minus DuDe's."""

    def perplexity(run: Any) -> float | None:
        found = run.task("wikitext2")
        return None if found is None else float(found["value"])

    rows = [(comparison.row("dude", r), other) for other in comparison.results.rows for r in (other.r or 16,)]
    return [
        Difference(
            comparison.name,
            f"word perplexity, {other.label} minus {mine.label}",
            by_seed(other, mine, perplexity),
            "",
        )
        for mine, other in rows
        if mine is not None and other.method != "dude"
    ]


def _ladder(comparison: ComparisonResult) -> list[Difference]:
    """Each minus the one before: guessing, the base model, LoRA at rank 2, full fine-tuning."""
    base, low, full = comparison.results.base, comparison.row("lora", 2), comparison.row("full", None)
    chance = next((column.chance for column in comparison.spec.columns[::-1] if column.chance is not None), None)
    over = rises = None
    if base is not None and chance is not None and (found := base.task(base.after["headline"])) is not None:
        over = intervals.normal(found["value"] - chance, found["stderr"])
    if base is not None and low is not None and low.runs:
        unchanged = tuple(_as_seed(base, run.seed) for run in low.runs)
        rises = difference(low, replace(low, label="base model", runs=unchanged))
    last = "full fine-tuning against LoRA r=2"
    return [
        Difference(comparison.name, "base model against guessing", over),
        Difference(comparison.name, "LoRA r=2 against base model", rises),
        replace(_rows(comparison, full, low), what=last) if full and low else Difference(comparison.name, last, None),
    ]


def _as_seed(base: Run, seed: int) -> Run:
    """Return the base model's run under a seed, to pair it with trained runs."""
    return replace(base, record={**base.record, "seeds": {"seed": seed}})


def _against(one: RowResult, other: RowResult) -> str:
    return f"{one.name} against {other.label}"


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        text: the claim.
        compare: returns its differences in one comparison.
        plain: a fact of the runs, not a test.
    """

    text: str
    compare: Callable[[ComparisonResult], list[Difference]]
    plain: bool = False


CLAIMS = {
    "best": Claim("DuDe is more accurate than LoRA, DoRA and PiSSA", _best),
    "best_at_each_rank": Claim("DuDe is more accurate than LoRA, DoRA and PiSSA at every rank", _best),
    "margin_grows": Claim("DuDe's margin is larger at the largest rank than at the smallest", _grows),
    "variants": Claim("The initialisations DuDe-A and DuDe-B are more accurate than DuDe's", _variants),
    "worst_above_best": Claim(
        "DuDe's worst seed is more accurate than the best of every other method", _worst, plain=True
    ),
    "steadier": Claim("DuDe varies less from seed to seed", _steadier),
    "faster": Claim("DuDe's training loss falls faster", _faster),
    "near_full": Claim("DuDe's loss is closer to full fine-tuning's", _near_full),
    "lower_validation_loss": Claim("DuDe's validation loss is lower", _lower_validation_loss),
    "ladder": Claim("Guessing < base model < LoRA r=2 < full fine-tuning", _ladder),
    "forgiving": Claim("Too large a rate costs DuDe less than PiSSA, and DoRA less than LoRA", forgiving, plain=True),
    "keeps_more": Claim(
        "With the next rate above the best DuDe is more accurate than PiSSA, and DoRA than LoRA", _keeps_more
    ),
    "forgets_less": Claim("After DuDe the perplexity on WikiText-2 is lower than after other methods", _forgets_less),
    "parts_help": Claim("Each part of DuDe raises the accuracy", ablation.effects),
    "parts_interact": Claim("The parts of DuDe add up to more together than each alone", ablation.interactions),
    "higher_throughout": Claim("DuDe's accuracy is higher throughout training", _throughout),
}
