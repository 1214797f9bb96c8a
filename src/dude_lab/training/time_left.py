"""The time that training still takes, from the steps and evaluations that were measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

STEPS = 5  # measured steps before there is an estimate; also a twentieth of the run, or `SECONDS` of training
SECONDS = 30.0


class Remaining(NamedTuple):
    """What is left of a training.

    Attributes:
        seconds: of the remaining steps and of the evaluations between them.
        evaluations: number of evaluations between them whose time is not included, because none was measured.
    """

    seconds: float
    evaluations: int = 0


@dataclass
class TimeLeft:
    """Estimate of the remaining time.

    A step is taken to last in proportion to its tokens, because batches differ in length and a sampler that groups
    by length begins with the longest. The first step of the process is not measured: it also sets things up.

    Attributes:
        steps: steps of the run.
        per_epoch: steps of an epoch.
        tokens: tokens of an epoch.
        every: steps from one evaluation to the next; None without evaluations between steps.
    """

    steps: int
    per_epoch: int
    tokens: int
    every: int | None = None
    _first: tuple[int, int, float] | None = None
    _evaluations: list[float] = field(default_factory=list)

    def evaluated(self, seconds: float) -> None:
        """Add the time of an evaluation between steps."""
        self._evaluations.append(seconds)

    def after(self, step: int, tokens: int, seconds: float) -> Remaining | None:
        """Return what is left after a step; None as long as too little was measured.

        Args:
            step: its number, from 1.
            tokens: tokens of the run so far.
            seconds: seconds of training so far, without evaluations.
        """
        if self._first is None:
            self._first = step, tokens, seconds
        if step >= self.steps:
            return Remaining(0.0)
        measured, seen, time = step - self._first[0], tokens - self._first[1], seconds - self._first[2]
        if measured < STEPS or seen <= 0 or (measured < self.steps / 20 and time < SECONDS):
            return None
        count = (self.steps - 1) // self.every - step // self.every if self.every else 0
        left = time / seen * self._tokens_after(step, tokens)
        if not self._evaluations:
            return Remaining(left, count)
        return Remaining(left + count * fmean(self._evaluations))

    def _tokens_after(self, step: int, tokens: int) -> float:
        """Return the expected tokens of the remaining steps; those left of this epoch are known."""
        mean = self.tokens / self.per_epoch
        epochs = step // self.per_epoch + 1  # with the one that is running
        to_come = epochs * self.per_epoch - step
        this_epoch = (epochs * self.tokens - tokens) / to_come
        if not mean / 10 < this_epoch < mean * 10:  # the run was resumed with other data
            this_epoch = mean
        here = min(to_come, self.steps - step)
        return here * this_epoch + (self.steps - step - here) * mean
