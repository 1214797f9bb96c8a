"""What the results say: an interval for each accuracy, and which rows can be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from . import statistics
from .results import Results, RowResult, differences
from .runs import Run
from .statistics import Interval

SURE = 0.05  # adjusted p-values below it put a task's best value in bold


@dataclass
class Outcome:
    """Intervals and verdicts.

    Attributes:
        sentences: the outcome as measured, one for each group of rows that is compared.
        pairs: (row, row) -> the difference of the first to the second, where both were asked the same questions.
        bold: (row, column) -> its value is the best of its group and differs from the runner-up's.
    """

    sentences: list[str] = field(default_factory=list)
    pairs: dict[tuple[str, str], Interval] = field(default_factory=dict)
    bold: set[tuple[str, str]] = field(default_factory=set)


def accuracy(runs: Sequence[Run], task: str | None = None) -> Interval | None:
    """Mean accuracy of a row's runs with its interval; of one task, or of the headline.

    Several seeds: Student's t over them. One: Wilson's over the questions, or for an average the normal one.
    """
    name = task or next((run.after["headline"] for run in runs if "headline" in run.after), "")
    found = [one for run in runs if (one := run.task(name)) is not None]
    if not found:
        return None
    if len(found) > 1:
        return statistics.t_interval([one["value"] for one in found])
    one, correct = found[0], found[0]["value"] * found[0]["n"]
    if name in runs[0].tasks_asked and abs(correct - round(correct)) < 1e-6 * one["n"]:
        return statistics.wilson(round(correct), one["n"])
    return statistics.normal(one["value"], one["stderr"]) if one["stderr"] is not None else None


def groups(results: Results) -> list[tuple[str, list[RowResult]]]:
    """Rows that are compared with each other: those of one rank, and with each rank those that have none."""
    rows = [row for row in results.rows if row.runs and row.runs[0].accuracy is not None]
    ranks = list(dict.fromkeys(row.r for row in rows if row.r is not None))
    if len(ranks) < 2:
        return [("", rows)]
    return [(f"r = {rank}: ", [row for row in rows if row.r in (rank, None)]) for rank in ranks]


def find_outcome(results: Results) -> Outcome:
    """Compare the rows of every group with each other."""
    outcome = Outcome()
    for prefix, rows in groups(results):
        for k, one in enumerate(rows):
            for other in rows[k + 1 :]:
                _pair(outcome, one, other)
        _verdict(outcome, prefix, rows, "")
        _bold_tasks(outcome, rows, results.sets)
        adapters = [row for row in rows if row.method != "full"]
        if len(adapters) < len(rows) and len(adapters) > 1 and _best(rows).method == "full":
            _verdict(outcome, prefix, adapters, "without full fine-tuning, ")
    return outcome


def _pair(outcome: Outcome, one: RowResult, other: RowResult) -> None:
    if (one.name, other.name) in outcome.pairs or (found := differences(one, other)) is None:
        return
    tasks, weights, _ = found
    made = statistics.hierarchical_bootstrap(tasks, weights=weights)
    outcome.pairs[one.name, other.name] = made
    outcome.pairs[other.name, one.name] = Interval(-made.estimate, -made.high, -made.low, made.p)


def mean_accuracy(row: RowResult) -> float:
    """Over the row's seeds; minus infinity where nothing was asked."""
    values = [run.accuracy for run in row.runs if run.accuracy is not None]
    return float(np.mean(values)) if values else -math.inf


def _best(rows: Sequence[RowResult]) -> RowResult:
    return max(rows, key=mean_accuracy)


def _verdict(outcome: Outcome, prefix: str, rows: list[RowResult], kind: str) -> None:
    if len(rows) < 2:
        return
    ranked = sorted(rows, key=mean_accuracy, reverse=True)
    best, others = ranked[0], ranked[1:]
    told = {row.name: outcome.pairs.get((best.name, row.name)) for row in others}
    differ = [f"{name} ({_points(i)})" for name, i in told.items() if i is not None and i.excludes_zero]
    same = [f"{name} ({_points(i)})" for name, i in told.items() if i is not None and not i.excludes_zero]
    unknown = [name for name, i in told.items() if i is None]
    text = f"{prefix}{kind}{best.name} has the highest accuracy, {100 * mean_accuracy(best):.1f}%."
    text = text[0].upper() + text[1:] if not prefix else text
    text += f" It cannot be told apart from {', '.join(same)}." if same else ""
    text += f" It is higher than {', '.join(differ)}." if differ else ""
    text += f" No paired answers to compare it with {', '.join(unknown)}." if unknown else ""
    outcome.sentences.append(text)
    runner_up = told[others[0].name]
    if not kind and runner_up is not None and runner_up.excludes_zero:
        outcome.bold.add((best.name, "accuracy"))


def _points(interval: Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.estimate:+.1f} points, 95% interval {low:+.1f} to {high:+.1f}"


def _bold_tasks(outcome: Outcome, rows: list[RowResult], sets: Sequence[str]) -> None:
    """In each task the best row, where it differs from the runner-up: paired t over seeds, Holm across tasks."""
    tops: list[tuple[str, str]] = []
    p_values: list[float] = []
    for task in sets:
        means = {row.name: found.estimate for row in rows if (found := accuracy(row.runs, task)) is not None}
        if len(means) < 2:
            continue
        first, second = sorted(means, key=lambda name: means[name], reverse=True)[:2]
        one, other = (next(row for row in rows if row.name == name) for name in (first, second))
        tops.append((first, task))
        p_values.append(task_p_value(one, other, task))
    adjusted = statistics.holm(p_values)
    outcome.bold |= {top for top, p in zip(tops, adjusted, strict=True) if p < SURE}


def task_p_value(one: RowResult, other: RowResult, task: str) -> float:
    """P-value of no difference on a task: paired t over seeds, or with one seed over its questions; NaN if neither."""
    mine, theirs = ({r.seed: found["value"] for r in row.runs if (found := r.task(task))} for row in (one, other))
    seeds = [seed for seed in mine if seed in theirs]
    if len(seeds) > 1:
        return statistics.paired_t([mine[s] for s in seeds], [theirs[s] for s in seeds]).p
    if not seeds:
        return math.nan
    left, right = (next(r for r in row.runs if r.seed == seeds[0]).answers().get(task) for row in (one, other))
    if left is None or right is None or [i for i, _ in left] != [i for i, _ in right]:
        return math.nan
    table = np.array([[float(a) - float(b) for (_, a), (_, b) in zip(left, right, strict=True)]])
    return statistics.hierarchical_bootstrap([table]).p
