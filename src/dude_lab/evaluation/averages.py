"""Averages over the subjects of MMLU and over the sets of a suite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .result import Metric
from .tasks import Unit


def with_averages(rows: Sequence[Metric], units: Sequence[Unit], suite: str) -> tuple[list[Metric], str]:
    """The rows of single tasks with their averages, and the name of the row that stands for all.

    A set with subjects gets, before them, the mean over its subjects (what the DuDe paper calls average), the mean
    weighted by questions (lm-evaluation-harness's `mmlu`), and for each group the mean over its subjects. Several
    sets get their plain mean, called `suite`, at the end.

    Args:
        rows: one for each unit.
        units: the tasks.
        suite: name of the mean over the sets.
    """
    table: list[Metric] = []
    heads: list[Metric] = []
    for name in dict.fromkeys(unit.set_name for unit in units):
        mine = [(row, unit) for row, unit in zip(rows, units, strict=True) if unit.set_name == name]
        parts = [row for row, _ in mine]
        if len(parts) == 1 and parts[0].task == name:
            table += parts
            heads += parts
            continue
        head = _mean(name, parts, lambda _: 1.0)
        table += [head, _mean(f"{name}_weighted", parts, lambda row: row.n)]
        for group in dict.fromkeys(unit.group for _, unit in mine if unit.group):
            table.append(_mean(f"{name}_{group}", [row for row, unit in mine if unit.group == group], lambda _: 1.0))
        table += parts
        heads.append(head)
    if len(heads) == 1:
        return table, heads[0].task
    return [*table, _mean(suite, heads, lambda _: 1.0)], suite


def _mean(name: str, rows: Sequence[Metric], weight: Callable[[Metric], float]) -> Metric:
    """Weighted mean of `rows`; its standard error takes them as independent."""
    weights = [weight(row) for row in rows]
    total = sum(weights)

    def one(of: Callable[[Metric], float]) -> float:
        return sum(w * of(row) for w, row in zip(weights, rows, strict=True)) / total

    return Metric(
        task=name,
        metric=_same([row.metric for row in rows], "average"),
        value=one(lambda row: row.value),
        stderr=math.sqrt(sum((w * row.stderr) ** 2 for w, row in zip(weights, rows, strict=True))) / total,
        n=sum(row.n for row in rows),
        shots=max(row.shots for row in rows),
        protocol=_same([row.protocol for row in rows]),
        split=_same([row.split for row in rows]),
        truncated=sum(row.truncated for row in rows),
    )


def _same(values: Sequence[str], mixed: str = "mixed") -> str:
    return values[0] if len(set(values)) == 1 else mixed
