"""Intervals and tests for accuracies over seeds and questions, as pure functions.

A method is run with S seeds on the same n questions, which gives an array of S x n values of 0 and 1. Two methods are
compared seed by seed and question by question: their difference is an array of S x n values of -1, 0 and 1.
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
    """An estimate, its confidence interval, and the p-value of zero. Accuracies are between 0 and 1."""

    estimate: float
    low: float
    high: float
    p: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the interval."""
        return self.low > 0 or self.high < 0


def wilson(correct: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the interval of a proportion of `n` independent questions (Wilson 1927).

    Raises:
        ValueError: `n` is 0, or `correct` is larger than `n`.
    """
    found = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return Interval(correct / n, float(found.low), float(found.high))


def normal(estimate: float, stderr: float, confidence: float = CONFIDENCE) -> Interval:
    """Return the interval of a mean from its standard error, and the p-value of zero."""
    half = float(stats.norm.ppf((1 + confidence) / 2)) * stderr
    p = float(2 * stats.norm.sf(abs(estimate) / stderr)) if stderr else float(estimate == 0)
    return Interval(estimate, estimate - half, estimate + half, p)


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return Student's t interval of the mean over seeds, with the p-value of zero.

    Args:
        values: one value for each seed, at least two.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"a t interval needs at least two values, got {len(values)}")
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if np.ptp(array) == 0:  # the mean of equal numbers may round
        return Interval(float(array[0]), float(array[0]), float(array[0]), 1.0 if array[0] == 0 else 0.0)
    return _student(mean, float(array.std(ddof=1)) / math.sqrt(len(array)), len(array) - 1, confidence)


def paired_t(one: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return Student's t interval of the mean of `one - other`, paired by seed.

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
    """Return the mean difference of two methods over tasks, with an interval from a bootstrap over seeds and questions.

    Seeds and, within each task, questions are drawn with replacement, independently: the questions are the same for all
    seeds, so the two are crossed, not nested. Three errors of the plain bootstrap are corrected:

    - With S seeds drawn from S, their variance is too small by the factor (S - 1) / S, one half at two seeds. Each
      seed's deviation is multiplied by sqrt(S / (S - 1)) first.
    - The residual variance is counted for seeds, for questions and for both (Owen, Annals of Applied Statistics 1,
      2007). The excess is subtracted.
    - Percentiles of few seeds are too narrow. The interval is Student's, with Satterthwaite's degrees of freedom:
      S - 1 if the seeds dominate, n - 1 if the questions do.

    Args:
        tasks: differences of each task, (S, n), with the same S for all tasks. With one seed only questions are drawn,
            and the interval says nothing about other seeds.
        weights: weights of the tasks in the mean, which are normalised; default: equal.
        replicates: number of draws.
        seed: seed of the draws.
        confidence: confidence level.

    Raises:
        ValueError: no tasks, an empty task, or tasks with different numbers of seeds.
    """
    if not tasks or any(t.ndim != 2 or t.size == 0 for t in tasks) or len({t.shape[0] for t in tasks}) > 1:
        raise ValueError(f"need tasks of (seeds, questions) with the same seeds, got {[t.shape for t in tasks]}")
    rng = np.random.default_rng(seed)
    seeds = tasks[0].shape[0]
    share = np.full(len(tasks), 1.0) if weights is None else np.asarray(weights, dtype=float)
    share = share / share.sum()
    tasks = [weight * task for weight, task in zip(share, tasks, strict=True)]  # their sum is the estimate
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
    """Estimated variances of the sum over tasks: between seeds, between questions, and residual.

    As mean squares, the first two include the third. `degrees` combines their degrees of freedom.
    """

    seeds: float
    questions: float
    residual: float
    terms: tuple[tuple[float, int], ...]

    def degrees(self, variance: float) -> float:
        """Return Satterthwaite's degrees of freedom for a variance composed of these."""
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
    if stderr < 1e-12:  # all differences are equal
        same = 1.0 if abs(estimate) < 1e-12 else 0.0
        return Interval(estimate, estimate, estimate, same)
    half = float(stats.t.ppf((1 + confidence) / 2, df)) * stderr
    return Interval(estimate, estimate - half, estimate + half, float(2 * stats.t.sf(abs(estimate) / stderr, df)))
