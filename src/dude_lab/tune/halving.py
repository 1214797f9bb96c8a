"""Successive halving: how many candidates train for how many steps within a budget of time. Pure functions.

All candidates have the schedule of a complete run. A rung is a step at which they stop; the better half continues from
there. They are compared by their training loss, which costs nothing; only those of the last rung are evaluated. Shorter
runs with a schedule of their own, decayed to zero, prefer rates that are too large (studies/tune/README.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from dude_peft.errors import DudeError, quote

LEAST = 10.0  # seconds of the smallest budget
FINEST = 1000  # lengths of a rung that are tried
GROWTHS = (2, 4)  # of the steps from rung to rung
FINALISTS, MOST_FINALISTS = 2, 3  # candidates of the last rung: one alone is compared with nothing
TOLERANCE = 0.1  # of the lowest training loss: a choice before the end
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Cost:
    """Seconds of a run: `fixed` for loading and initialisation, and `step` for each optimizer step."""

    fixed: float
    step: float

    def of(self, steps: int) -> float:
        """Return the seconds of a run of so many steps."""
        return self.fixed + steps * self.step


@dataclass(frozen=True)
class Rung:
    """So many candidates, each trained up to this step."""

    steps: int
    candidates: int


def parse_budget(text: str) -> float:
    """Return a time such as `90s`, `30m`, `2h` or `1h30m` in seconds.

    Raises:
        DudeError: another form, or less than `LEAST` seconds.
    """
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip().lower())
    if found is None or not any(found.groups()):
        raise DudeError(f"--budget: {quote(text)} is not a time. Write 90s, 30m, 2h or 1h30m.")
    seconds = sum(float(value) * unit for value, unit in zip(found.groups(), UNITS.values(), strict=True) if value)
    if not LEAST <= seconds < math.inf:
        raise DudeError(f"--budget: {quote(text)} is less than {LEAST:g}s, too short to train anything. Give more.")
    return seconds


def shortest_rung(steps: int, warmup: float) -> int:
    """Return the steps of the first rung, at least: the loss of the next step but one shows the first full update.

    Args:
        steps: optimizer steps of a complete run.
        warmup: a fraction of them if below 1, else a number of steps (`train.warmup`).

    >>> shortest_rung(60, 0.03)
    4
    """
    return min(steps, math.ceil(warmup * steps if warmup < 1 else warmup) + 2)


def plan_rungs(
    count: int, steps: int, cost: Cost, budget: float, *, first: int = 2, jobs: int = 1, evaluation: float = 0.0
) -> list[Rung]:
    """Return rungs that fit a budget; empty if not even the shortest fits.

    A run of a longer rung continues that of the shorter one. From rung to rung the steps double, and half of the
    candidates stay. First choice: the last rung has three candidates, or two, which train all `steps` and are
    evaluated, and the first rung is as long as the rest of the budget allows; if loading takes too long for that, the
    steps grow fourfold, and a quarter stays. If the budget is too small for that too: the shortest first rung, and as
    many steps for the last two candidates as fit; if loading takes too long for that, again with steps that grow
    faster.

    Args:
        count: number of candidates.
        steps: optimizer steps of a complete run.
        cost: of a run, without evaluation; `fixed` is counted for every rung, since a resumed run loads the model.
        budget: seconds.
        first: optimizer steps of the first rung, at least.
        jobs: runs in parallel.
        evaluation: seconds to evaluate a complete run.
    """
    first, stride = min(first, steps), max(1, steps // FINEST)
    for growth in GROWTHS:
        for finalists in dict.fromkeys(min(number, count) for number in (MOST_FINALISTS, FINALISTS)):
            for shortest in range(steps, first - 1, -stride):
                rungs = _growing(count, shortest, steps, finalists, growth)
                if seconds(rungs, steps, cost, jobs, evaluation) <= budget:
                    return rungs
    best: list[Rung] = []
    for growth in (*GROWTHS, steps):  # the last is no rung between the first and the last one
        for longest in (*range(steps - 1, first, -stride), first):
            rungs = _growing(count, first, longest, min(FINALISTS, count), growth)
            while len(rungs) > 1 and rungs[-2].candidates == rungs[-1].candidates:  # one instead of two of the same
                rungs.pop(-2)
            if seconds(rungs, steps, cost, jobs, evaluation) <= budget:
                best = best or rungs
                if len(rungs) > 1:
                    return rungs
                break
    return best


def shortened(rungs: Sequence[Rung], reached: int, steps: int, cost: Cost, left: float, jobs: int = 1,
              evaluation: float = 0.0) -> list[Rung]:  # fmt: skip
    """Return the remaining rungs with fewer candidates, or fewer rungs, so that they fit the seconds that are left.

    Args:
        rungs: the rungs that are not done.
        reached: steps that the candidates have done.
        steps, cost, jobs, evaluation: as in `plan_rungs`.
        left: seconds.
    """
    made = list(rungs)
    while made and seconds(made, steps, cost, jobs, evaluation, reached) > left:
        if made[-1].candidates > FINALISTS:
            made = [Rung(one.steps, min(one.candidates, made[-1].candidates - 1)) if one is made[-1] else one
                    for one in made]  # fmt: skip
        else:
            made.pop()
    return made


def seconds(
    rungs: Sequence[Rung], steps: int, cost: Cost, jobs: int = 1, evaluation: float = 0.0, reached: int = 0
) -> float:
    """Return the time of rungs; the arguments are those of `plan_rungs` and `shortened`."""
    total = 0.0
    for rung in rungs:
        one = cost.of(rung.steps - reached) + (evaluation if rung.steps >= steps else 0.0)
        total += math.ceil(rung.candidates / jobs) * one
        reached = rung.steps
    return total


def _growing(count: int, shortest: int, longest: int, finalists: int, growth: int) -> list[Rung]:
    """Return rungs from `shortest` to `longest` steps; a last step of less than a tenth is no rung of its own."""
    lengths = [shortest]
    while 1.1 * growth * lengths[-1] < longest:
        lengths.append(growth * lengths[-1])
    if lengths[-1] < longest:
        lengths.append(longest)
    made = [Rung(lengths[0], count)]
    for before, after in pairwise(lengths):
        here = made[-1].candidates
        made.append(Rung(after, min(here, max(finalists, math.ceil(here * before / after)))))
    return made


def recent_loss(losses: Mapping[int, float | None], steps: int) -> float:
    """Return the mean training loss over the last third of so many steps, infinite without one.

    Every candidate trains on the same batches, so their means differ by less than the loss of a batch does. As long as
    no example is seen twice, it is the loss on data that the model has not seen.

    Args:
        losses: step -> loss; None, or a step that is missing, is a loss that is not known.
        steps: optimizer steps.

    >>> recent_loss({1: 9.0, 2: 8.0, 3: 4.0, 4: 2.0}, 4)
    3.0
    """
    window = recent(losses, steps)
    return sum(window.values()) / len(window) if window else math.inf


def recent(losses: Mapping[int, float | None], steps: int) -> dict[int, float]:
    """Return step -> loss over the last third of so many steps; the last loss before if there is none there."""
    known = {step: loss for step, loss in losses.items() if step <= steps and loss is not None}
    window = {step: loss for step, loss in known.items() if step > steps - math.ceil(steps / 3)}
    return window or dict(list(known.items())[-1:])


def promoted(losses: Mapping[Key, float], count: int) -> list[Key]:
    """Return the `count` candidates with the lowest loss, in their order; an infinite loss is never promoted."""
    best = sorted((key for key in losses if losses[key] < math.inf), key=lambda key: losses[key])[:count]
    return [key for key in losses if key in best]


def careful_choice(losses: Mapping[Key, float], rates: Mapping[Key, float]) -> Key:
    """Return the candidate with the smallest rate among those within a tenth of the lowest loss.

    In the middle of a run the training loss favours large rates: they are ahead at first, and the decay of the
    schedule, in which smaller ones catch up, is still to come.

    >>> careful_choice({"a": 1.00, "b": 1.05, "c": 1.30}, {"a": 1e-2, "b": 3e-3, "c": 1e-3})
    'b'
    """
    limit = (1 + TOLERANCE) * min(losses.values())
    return min((key for key in losses if losses[key] <= limit), key=lambda key: (rates[key], losses[key]))
