"""Intervals of accuracies, and which rows differ significantly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from ..stats import intervals
from ..stats.intervals import Interval
from ..stats.significance import ALPHA, HIGHER, LOWER, SAME, UNKNOWN, Significance, adjusted, holm, significance
from ..text import percent
from .results import Results, RowResult, differences
from .run_store import Run


@dataclass
class Outcome:
    """Intervals and verdicts.

    Attributes:
        sentences: the outcome in words, one for each group of rows that is compared.
        pairs: (row, row) -> first minus second, in both orders.
        adjusted: (row, row) -> its p-value after Holm's correction over all pairs of the table.
        bold: (row, column) whose value is the best of its group and significantly higher than the second best.
    """

    sentences: list[str] = field(default_factory=list)
    pairs: dict[tuple[str, str], Interval] = field(default_factory=dict)
    adjusted: dict[tuple[str, str], float] = field(default_factory=dict)
    bold: set[tuple[str, str]] = field(default_factory=set)

    def word(self, one: str, other: str) -> Significance:
        """Whether the first of two rows is significantly higher or lower than the second."""
        return significance(self.pairs.get((one, other)), self.adjusted.get((one, other), math.nan))


def accuracy(runs: Sequence[Run], task: str | None = None) -> Interval | None:
    """Return the mean accuracy of a row's runs with its interval, on one task or the headline.

    With several seeds, Student's t over seeds; with one, Wilson's over the questions, or for an average the normal one.
    If all seeds have one value, as where no question is answered, the interval is that of one of them.
    """
    name = task or next((run.after["headline"] for run in runs if "headline" in run.after), "")
    found = [one for run in runs if (one := run.task(name)) is not None]
    if not found:
        return None
    if len({one["value"] for one in found}) > 1:
        return intervals.t_interval([one["value"] for one in found])
    one, correct = found[0], found[0]["value"] * found[0]["n"]
    if name in runs[0].tasks_asked and abs(correct - round(correct)) < 1e-6 * one["n"]:
        return intervals.wilson(round(correct), one["n"])
    return intervals.normal(one["value"], one["stderr"]) if one["stderr"] is not None else None


def groups(results: Results) -> list[tuple[str, list[RowResult]]]:
    """Return the rows that are compared with each other: those of one rank, and those without a rank in every group."""
    rows = [row for row in results.rows if row.runs and row.runs[0].accuracy is not None]
    ranks = list(dict.fromkeys(row.r for row in rows if row.r is not None))
    if len(ranks) < 2:
        return [("", rows)]
    return [(f"r = {rank}: ", [row for row in rows if row.r in (rank, None)]) for rank in ranks]


def find_outcome(results: Results) -> Outcome:
    """Compare the rows of every group with each other."""
    outcome, found = Outcome(), groups(results)
    tops: list[tuple[str, str, float]] = []
    for _, rows in found:
        for left, right in combinations(rows, 2):
            _pair(outcome, left, right)
        tops += _task_tops(rows, results.sets)
    family = list(outcome.pairs)[::2]  # each pair once: `_pair` enters both ways, one after the other
    for (one, other), p in zip(family, adjusted([outcome.pairs[pair] for pair in family]), strict=True):
        outcome.adjusted[one, other] = outcome.adjusted[other, one] = p
    by_task = holm([p for *_, p in tops])
    outcome.bold |= {(row, task) for (row, task, _), p in zip(tops, by_task, strict=True) if p < ALPHA}
    for prefix, rows in found:
        _verdict(outcome, prefix, rows, "")
        adapters = [row for row in rows if row.method != "full"]
        if len(adapters) < len(rows) and len(adapters) > 1 and _best(rows).method == "full":
            _verdict(outcome, prefix, adapters, "without full fine-tuning, ")
    return outcome


def difference(one: RowResult, other: RowResult) -> Interval | None:
    """Return `one`'s accuracy minus `other`'s, paired by seed and question, or by seed if answers cannot be paired."""
    if (found := differences(one, other)) is not None:
        tasks, weights, _ = found
        return intervals.hierarchical_bootstrap(tasks, weights=weights)
    return by_seed(one, other, lambda run: run.accuracy)


def by_seed(one: RowResult, other: RowResult, value: Callable[[Run], float | None]) -> Interval | None:
    """Return Student's t of `value(one) - value(other)` over the seeds of both; None with fewer than two."""
    mine, theirs = ({run.seed: found for run in row.runs if (found := value(run)) is not None} for row in (one, other))
    seeds = [seed for seed in mine if seed in theirs]
    if len(seeds) < 2:
        return None
    return intervals.paired_t([mine[seed] for seed in seeds], [theirs[seed] for seed in seeds])


def _pair(outcome: Outcome, one: RowResult, other: RowResult) -> None:
    if (one.name, other.name) in outcome.pairs or (made := difference(one, other)) is None:
        return
    outcome.pairs[one.name, other.name] = made
    outcome.pairs[other.name, one.name] = Interval(-made.estimate, -made.high, -made.low, made.p)


def mean_accuracy(row: RowResult) -> float:
    """Return the mean over the row's seeds; minus infinity without an evaluation."""
    values = [run.accuracy for run in row.runs if run.accuracy is not None]
    return float(np.mean(values)) if values else -math.inf


def _best(rows: Sequence[RowResult]) -> RowResult:
    return max(rows, key=mean_accuracy)


def _verdict(outcome: Outcome, prefix: str, rows: list[RowResult], kind: str) -> None:
    if len(rows) < 2:
        return
    ranked = sorted(rows, key=mean_accuracy, reverse=True)
    best, others = ranked[0], ranked[1:]
    words: dict[Significance, list[str]] = {}
    for row in others:
        interval, word = outcome.pairs.get((best.name, row.name)), outcome.word(best.name, row.name)
        words.setdefault(word, []).append(row.name if interval is None else f"{row.name} ({_points(interval)})")
    text = f"{prefix}{kind}{best.name} has the highest accuracy, {percent(mean_accuracy(best))}%."
    text = text[0].upper() + text[1:] if not prefix else text
    for word, form in _FORMS.items():
        text += form.format(", ".join(words[word])) if word in words else ""
    outcome.sentences.append(text)
    if not kind and outcome.word(best.name, others[0].name) == HIGHER:
        outcome.bold.add((best.name, "accuracy"))


_FORMS: dict[Significance, str] = {
    HIGHER: " It is significantly higher than {}.",
    SAME: " No significant difference from {}.",
    LOWER: " Over shared seeds it is significantly lower than {}.",  # rows with different seeds
    UNKNOWN: " Not comparable with {}.",
}


def _points(interval: Interval) -> str:
    estimate, low, high = (percent(value, "+") for value in (interval.estimate, interval.low, interval.high))
    return f"{estimate} points, 95% interval {low} to {high}"


def _task_tops(rows: list[RowResult], sets: Sequence[str]) -> list[tuple[str, str, float]]:
    """Return for each task the best row, the task, and the p-value of its difference from the second best."""
    tops: list[tuple[str, str, float]] = []
    for task in sets:
        means = {row.name: found.estimate for row in rows if (found := accuracy(row.runs, task)) is not None}
        if len(means) < 2:
            continue
        first, second = sorted(means, key=lambda name: means[name], reverse=True)[:2]
        one, other = (next(row for row in rows if row.name == name) for name in (first, second))
        tops.append((first, task, task_p_value(one, other, task)))
    return tops


def task_p_value(one: RowResult, other: RowResult, task: str) -> float:
    """Return the p-value of a difference on a task: paired t over seeds, or for one seed over questions; else NaN."""
    mine, theirs = ({r.seed: found["value"] for r in row.runs if (found := r.task(task))} for row in (one, other))
    seeds = [seed for seed in mine if seed in theirs]
    if len(seeds) > 1:
        return intervals.paired_t([mine[s] for s in seeds], [theirs[s] for s in seeds]).p
    if not seeds:
        return math.nan
    left, right = (next(r for r in row.runs if r.seed == seeds[0]).answers().get(task) for row in (one, other))
    if left is None or right is None or [i for i, _ in left] != [i for i, _ in right]:
        return math.nan
    table = np.array([[float(a) - float(b) for (_, a), (_, b) in zip(left, right, strict=True)]])
    return intervals.hierarchical_bootstrap([table]).p
