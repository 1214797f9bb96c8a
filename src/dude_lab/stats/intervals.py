"""Intervals and tests for accuracies over seeds and questions: pure functions, 95% unless told otherwise.

A method is run with S seeds on the same n questions, so an outcome is a table of S x n values of 0 and 1. Two methods
are compared seed by seed and question by question: their difference is a table of S x n values of -1, 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Table = NDArray[np.float64]

CONFIDENCE = 0.95
REPLICATES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate, its confidence interval, and the p-value of zero; a share, not per cent."""

    estimate: float
    low: float
    high: float
    p: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def wilson(correct: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a share of `n` independent questions (Wilson 1927).

    Raises:
        ValueError: no question, or more correct answers than questions.
    """
    found = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return Interval(correct / n, float(found.low), float(found.high))


def normal(estimate: float, stderr: float, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a mean of many questions from its standard error, and the p-value of zero."""
    half = float(stats.norm.ppf((1 + confidence) / 2)) * stderr
    p = float(2 * stats.norm.sf(abs(estimate) / stderr)) if stderr else float(estimate == 0)
    return Interval(estimate, estimate - half, estimate + half, p)


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval of the mean over seeds; its p-value is that of a mean of zero.

    Args:
        values: one for each seed, at least two.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"a t interval needs at least two values, got {len(values)}")
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if np.ptp(array) == 0:  # also where the mean of equal numbers rounds
        return Interval(float(array[0]), float(array[0]), float(array[0]), 1.0 if array[0] == 0 else 0.0)
    return _student(mean, float(array.std(ddof=1)) / math.sqrt(len(array)), len(array) - 1, confidence)


def paired_t(one: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of `one - other`, paired by seed: Student's t on the differences.

    Raises:
        ValueError: fewer than two pairs, or lists of different lengths.
    """
    return t_interval([a - b for a, b in zip(one, other, strict=True)], confidence)


def hierarchical_bootstrap(
    tasks: Sequence[Table],
    *,
    weights: Sequence[float] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean difference of two methods over tasks, its error from a bootstrap over seeds and over questions.

    Seeds and, within each task, questions are drawn with replacement, both independently: the questions are the same
    for all seeds, so the two are crossed, not nested. Three things are set right that the plain bootstrap gets wrong:

    - With S seeds drawn from S, their variance comes out (S - 1) / S of what it is: half of it at two seeds. Each
      seed's deviation is stretched by sqrt(S / (S - 1)) first.
    - The variance left after seeds and questions is counted once for each of the two and once for both (Owen, Annals
      of Applied Statistics 1, 2007): what is too much is subtracted.
    - Percentiles of so few seeds are too narrow. The interval is Student's, with Satterthwaite's degrees of freedom:
      S - 1 where the seeds decide, n - 1 where the questions do.

    Args:
        tasks: for each task its differences, (S, n) with the same S throughout, S and n at least 1. One seed: questions
            alone are drawn, and the interval says nothing about other seeds.
        weights: of the tasks in the mean; equal where not given. They are divided by their sum.
        replicates: draws.
        seed: of the draws: the same arguments give the same interval.
        confidence: of the interval.

    Raises:
        ValueError: no task, an empty one, or tasks with different numbers of seeds.
    """
    if not tasks or any(t.ndim != 2 or t.size == 0 for t in tasks) or len({t.shape[0] for t in tasks}) > 1:
        raise ValueError(f"need tasks of (seeds, questions) with the same seeds, got {[t.shape for t in tasks]}")
    rng = np.random.default_rng(seed)
    seeds = tasks[0].shape[0]
    share = np.full(len(tasks), 1.0) if weights is None else np.asarray(weights, dtype=float)
    share = share / share.sum()
    tasks = [weight * task for weight, task in zip(share, tasks, strict=True)]  # from here on their sum counts
    estimate = float(sum(task.mean() for task in tasks))
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates) / seeds  # (replicates, S)
    means = np.zeros(replicates)
    for task in tasks:
        n = task.shape[1]
        rows = task.mean(axis=1, keepdims=True)
        stretch = math.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0
        stretched = task + (stretch - 1) * (rows - rows.mean())
        for begin in range(0, replicates, 500):  # bounds the memory
            part = drawn[begin : begin + 500]
            counts = rng.multinomial(n, np.full(n, 1 / n), size=len(part)) / n
            means[begin : begin + 500] += np.einsum("bs,sn,bn->b", part, stretched, counts, optimize=True)
    parts = _components(tasks)
    excess = parts.residual * (1 + (seeds - 1) / seeds)
    bootstrapped = float(np.var(means, ddof=1))
    variance = max(bootstrapped - excess, parts.seeds, parts.questions)
    return _student(estimate, math.sqrt(variance), parts.degrees(variance), confidence)


@dataclass(frozen=True)
class _Parts:
    """Estimated variances of the sum over tasks: between seeds, between questions, and what is left.

    The first two each hold the third, as mean squares do. `degrees` weighs their degrees of freedom.
    """

    seeds: float
    questions: float
    residual: float
    terms: tuple[tuple[float, int], ...]

    def degrees(self, variance: float) -> float:
        """Satterthwaite's degrees of freedom for a variance made of these parts."""
        weight = sum(part**2 / df for part, df in self.terms if df > 0)
        return max(1.0, variance**2 / weight) if weight > 0 else 1.0


def _components(tasks: Sequence[Table]) -> _Parts:
    seeds = tasks[0].shape[0]
    overall = np.sum([task.mean(axis=1) for task in tasks], axis=0)
    between = float(overall.var(ddof=1)) / seeds if seeds > 1 else 0.0
    terms: list[tuple[float, int]] = [(between, seeds - 1)]
    questions = residual = 0.0
    for task in tasks:
        n = task.shape[1]
        if n < 2:
            continue
        columns = task.mean(axis=0)
        one = float(columns.var(ddof=1)) / n
        terms.append((one, n - 1))
        questions += one
        if seeds > 1:
            left = task - task.mean(axis=1, keepdims=True) - columns + task.mean()
            df = (seeds - 1) * (n - 1)
            one = float((left**2).sum()) / df / (seeds * n)
            terms.append((one, df))
            residual += one
    return _Parts(between, questions, residual, tuple(terms))


def _student(estimate: float, stderr: float, df: float, confidence: float) -> Interval:
    if stderr < 1e-12:  # every difference the same
        same = 1.0 if abs(estimate) < 1e-12 else 0.0
        return Interval(estimate, estimate, estimate, same)
    half = float(stats.t.ppf((1 + confidence) / 2, df)) * stderr
    return Interval(estimate, estimate - half, estimate + half, float(2 * stats.t.sf(abs(estimate) / stderr, df)))
