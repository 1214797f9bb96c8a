"""Intervals hold what they promise, on simulated data whose truth is known, and adjusted p-values are Holm's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dude_lab.stats.intervals import hierarchical_bootstrap, normal, paired_t, t_interval, wilson
from dude_lab.stats.significance import holm
from dude_lab.stats.smoothing import inside, smooth


def test_wilson_against_published_values() -> None:
    """8 of 10: 49.0 to 94.3 per cent (Brown, Cai and DasGupta 2001 use the same formula)."""
    found = wilson(8, 10)
    assert (found.estimate, round(found.low, 3), round(found.high, 3)) == (0.8, 0.490, 0.943)
    assert wilson(0, 20).low == 0 and wilson(20, 20).high == 1
    with pytest.raises(ValueError):
        wilson(1, 0)


def test_normal_is_the_mean_and_two_standard_errors() -> None:
    found = normal(0.5, 0.1)
    assert found.low == pytest.approx(0.5 - 1.959964 * 0.1) and found.high == pytest.approx(0.5 + 1.959964 * 0.1)


def test_t_interval_is_scipys() -> None:
    values = [0.41, 0.44, 0.39, 0.45, 0.43]
    found, wanted = t_interval(values), stats.ttest_1samp(values, 0)
    low, high = wanted.confidence_interval()
    assert (found.low, found.high, found.p) == pytest.approx((low, high, wanted.pvalue))
    other = [0.40, 0.40, 0.40, 0.42, 0.40]
    paired, wanted = paired_t(values, other), stats.ttest_rel(values, other)
    assert paired.p == pytest.approx(wanted.pvalue)
    assert (paired.low, paired.high) == pytest.approx(tuple(wanted.confidence_interval()))


def test_seeds_that_agree_have_no_spread() -> None:
    found = t_interval([0.1, 0.1, 0.1])
    assert (found.low, found.high, found.p) == (0.1, 0.1, 0.0)
    assert t_interval([0.0, 0.0]).p == 1.0
    with pytest.raises(ValueError, match="at least two"):
        t_interval([0.5])
    with pytest.raises(ValueError):
        paired_t([1, 2], [1])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_t_interval_covers(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    hits = sum(
        found.low <= 0.3 <= found.high for found in (t_interval(rng.normal(0.3, 0.02, seeds)) for _ in range(800))
    )
    assert 0.93 <= hits / 800 <= 0.97  # three standard errors are 2.3 points


# seeds, and the spread between seeds, between questions, and of what is left
WORLDS = [(1, 0.0, 0.3, 0.5), (3, 0.0, 0.3, 0.5), (3, 0.05, 0.3, 0.5), (5, 0.1, 0.2, 0.4), (5, 0.0, 0.0, 0.5)]


@pytest.mark.parametrize(("seeds", "between", "question", "rest"), WORLDS)
def test_hierarchical_bootstrap_covers(seeds: int, between: float, question: float, rest: float) -> None:
    rng = np.random.default_rng(7)
    hits, count, n = 0, 250, 80
    for k in range(count):
        table = 0.05 + between * rng.normal(size=(seeds, 1)) + question * rng.normal(size=(1, n))
        found = hierarchical_bootstrap([table + rest * rng.normal(size=(seeds, n))], replicates=200, seed=k)
        hits += found.low <= 0.05 <= found.high
    assert hits / count >= 0.90  # three standard errors of 250 draws are 4 points


def test_hierarchical_bootstrap_has_power() -> None:
    """An interval that always covered would be no use: a difference of 5 points is found in most of 60 comparisons."""
    rng = np.random.default_rng(3)
    found = [
        hierarchical_bootstrap(
            [rng.choice([-1.0, 0.0, 1.0], p=(0.1, 0.75, 0.15), size=(5, 400))], replicates=200, seed=k
        )
        for k in range(60)
    ]
    assert sum(one.excludes_zero for one in found) / 60 > 0.8


def test_hierarchical_bootstrap_is_the_analysis_of_variance() -> None:
    """Its variance is that of the crossed random-effects model, (MS_seed + MS_question - MS_rest) / (S n)."""
    rng = np.random.default_rng(0)
    table = 0.1 * rng.normal(size=(6, 1)) + 0.5 * rng.normal(size=(1, 50)) + 0.7 * rng.normal(size=(6, 50))
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns + table.mean()
    seed, question, left = 50 * rows.var(ddof=1), 6 * columns.var(ddof=1), (rest**2).sum() / (5 * 49)
    variance = (seed + question - left) / 300
    df = (seed + question - left) ** 2 / (seed**2 / 5 + question**2 / 49 + left**2 / 245)
    found = hierarchical_bootstrap([table], replicates=20000)
    half = stats.t.ppf(0.975, df) * math.sqrt(variance)
    assert found.high - found.estimate == pytest.approx(half, rel=0.03)


def test_where_seeds_alone_differ_it_is_the_paired_t() -> None:
    rows = np.array([0.02, 0.05, 0.01, 0.04])
    found, wanted = hierarchical_bootstrap([np.tile(rows[:, None], (1, 30))], replicates=20000), t_interval(list(rows))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.002)


def test_degenerate_tables() -> None:
    same = hierarchical_bootstrap([np.zeros((3, 10))])
    assert (same.estimate, same.low, same.high, same.p) == (0, 0, 0, 1) and not same.excludes_zero
    always = hierarchical_bootstrap([np.ones((2, 4))])
    assert (always.low, always.high, always.p) == (1, 1, 0) and always.excludes_zero
    assert math.isfinite(hierarchical_bootstrap([np.array([[1.0]])]).low)
    for bad in ([], [np.zeros((0, 3))], [np.zeros((2, 3)), np.zeros((3, 3))], [np.zeros(3)]):
        with pytest.raises(ValueError, match="tasks of"):
            hierarchical_bootstrap(bad)


def test_the_same_call_gives_the_same_interval_and_weights_are_shares() -> None:
    rng = np.random.default_rng(1)
    tasks = [rng.choice([-1.0, 0.0, 1.0], size=(3, n)) for n in (20, 60)]
    assert hierarchical_bootstrap(tasks) == hierarchical_bootstrap(tasks)
    assert hierarchical_bootstrap(tasks).estimate == pytest.approx((tasks[0].mean() + tasks[1].mean()) / 2)
    weighted = hierarchical_bootstrap(tasks, weights=[20, 60])
    assert weighted.estimate == pytest.approx(np.concatenate(tasks, axis=1).mean())
    assert hierarchical_bootstrap(tasks, weights=[2, 6]).high == pytest.approx(weighted.high)


def test_holm_against_known_values() -> None:
    """The worked example of R's p.adjust(method = "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    with_gap = holm([math.nan, 0.02])
    assert math.isnan(with_gap[0]) and with_gap[1] == 0.02


def test_one_running_mean_over_a_twelfth_of_a_curve() -> None:
    values = [float(k % 3) for k in range(36)]  # a window of three
    found = smooth(values)
    assert len(found) == 36 and found[0] == values[0] and found[-1] == values[-1]  # the window shrinks at the ends
    assert found[inside(36)] == pytest.approx([1.0] * 34)
    assert smooth([2.0, 5.0]).tolist() == [2.0, 5.0] and smooth([]).tolist() == []
