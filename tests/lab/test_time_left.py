"""The time left is that of the tokens and evaluations to come, with made-up times of steps."""

from __future__ import annotations

from itertools import accumulate

import pytest
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.reporter import Reporter
from dude_lab.training.time_left import Remaining, TimeLeft
from dude_lab.training.train_run import train

LENGTHS = [400 - 7 * k for k in range(50)]
"""Tokens of the steps of an epoch, the longest first, as a sampler that groups by length has them."""


def test_batches_of_falling_length_do_not_make_the_rest_slow() -> None:
    """A step lasts 1 ms a token. Judged by steps alone, it would be said to take 1.9 times as long."""
    seconds = [tokens / 1000 for tokens in LENGTHS]
    left = TimeLeft(steps=50, per_epoch=50, tokens=sum(LENGTHS))
    shown = {}
    for step, (seen, time) in enumerate(zip(accumulate(LENGTHS), accumulate(seconds), strict=True), 1):
        shown[step] = left.after(step, seen, time)
    for step in (10, 25, 49):
        found = shown[step]
        assert found is not None and found.seconds == pytest.approx(sum(seconds[step:]), rel=1e-6), step
    by_steps = sum(seconds[:10]) / 10 * 40
    assert by_steps > 1.8 * sum(seconds[10:])
    assert shown[50] == Remaining(0.0)


def test_later_epochs_have_the_mean_length() -> None:
    left = TimeLeft(steps=120, per_epoch=50, tokens=sum(LENGTHS))
    for step, seen in enumerate(accumulate(LENGTHS[:20]), 1):
        found = left.after(step, seen, seen / 1000)
    assert found is not None
    assert found.seconds == pytest.approx((sum(LENGTHS[20:]) + 70 * sum(LENGTHS) / 50) / 1000)


def test_a_slow_first_step_is_not_measured() -> None:
    left = TimeLeft(steps=20, per_epoch=20, tokens=2_000)
    found = [left.after(step, 100 * step, 60.0 + step) for step in range(1, 11)]
    assert found[:5] == [None] * 5  # five steps after the first
    assert found[-1] is not None and found[-1].seconds == pytest.approx(10.0)


def test_nothing_is_shown_before_a_twentieth_or_half_a_minute() -> None:
    left = TimeLeft(steps=1_000, per_epoch=1_000, tokens=100_000)
    assert left.after(1, 100, 0.0) is None and left.after(11, 1_100, 1.0) is None  # 1% of the run, after a second
    assert left.after(51, 5_100, 5.0) is not None
    slow = TimeLeft(steps=1_000, per_epoch=1_000, tokens=100_000)
    assert slow.after(1, 100, 0.0) is None and slow.after(11, 1_100, 40.0) is not None


def test_evaluations_to_come_count_as_they_were_measured() -> None:
    left = TimeLeft(steps=30, per_epoch=30, tokens=3_000, every=10)
    left.after(1, 100, 1.0)
    assert left.after(9, 900, 9.0) == Remaining(
        21.0, evaluations=2
    )  # after steps 10 and 20; that of 30 is the result's
    left.evaluated(8.0)
    assert left.after(10, 1_000, 10.0) == Remaining(28.0)
    left.evaluated(12.0)
    assert left.after(20, 2_000, 20.0) == Remaining(10.0)
    assert left.after(15, 1_500, 15.0) == Remaining(25.0)  # 10 s: the mean


def test_a_run_measures_its_steps_and_evaluations(tiny: Tiny) -> None:  # noqa: F811
    class Listening(Reporter):
        def __init__(self) -> None:
            self.seen: list[Remaining | None] = []

        def remaining(self, left: Remaining | None) -> None:
            self.seen.append(left)

    reporter = Listening()
    changes = ("train.steps=10", "data.validation=0.2", "eval.every=8")
    train(tiny.settings(*changes), reporter=reporter)
    assert reporter.seen[:5] == [None] * 5 and reporter.seen[-1] == Remaining(0.0)
    known = [one for one in reporter.seen[5:-1] if one is not None]
    assert [one.evaluations for one in known] == [1, 1, 0, 0]  # step 6 and 7; measured at 8
    assert all(0 < one.seconds < 60 for one in known)
