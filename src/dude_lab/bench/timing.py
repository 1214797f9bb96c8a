"""Interleaved timing: in every round each method runs once, and ratios are taken within the round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .bench_plan import Plan, cpu_clock
from .bench_results import BASELINE, DUDE, Result, Spread, spread

CALLS = {"cpu": 1, "cuda": 8}  # calls of one method in a round; on a GPU its queue must fill
Seconds = dict[str, list[float]]
Call = Callable[[], Any]


def nothing() -> None:
    """Do nothing before a call."""


def seconds_of(run: Call, device: str = "cpu", before: Call = nothing) -> float:
    """Return the seconds of one call; `before` is not timed.

    On a GPU what lies between two events, so that launching counts where the device waits for it; on a CPU see
    `cpu_clock`.
    """
    calls = CALLS[device]
    if device == "cuda":
        events = []
        for _ in range(calls):
            before()
            events.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
            events[-1][0].record()
            run()
            events[-1][1].record()
        torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in events) / 1e3 / calls
    now = cpu_clock(torch.get_num_threads())
    before()
    begin = now()
    run()
    return now() - begin


def interleave(
    runs: Mapping[str, Call],
    plan: Plan,
    before: Mapping[str, Call] | None = None,
    rounds: int | None = None,
    warm_up: bool = True,
) -> Seconds:
    """Return the seconds of each method in each round; a first round warms up and sets the number of rounds."""
    first = before or {}
    begin = time.perf_counter()
    for name, run in runs.items() if warm_up else ():
        seconds_of(run, plan.device, first.get(name, nothing))
    rounds = rounds or plan.rounds(time.perf_counter() - begin)
    seconds: Seconds = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            seconds[name].append(seconds_of(runs[name], plan.device, first.get(name, nothing)))
    return seconds


def ratios(seconds: Seconds, to: str = BASELINE, *, inverse: bool = False) -> dict[str, Spread]:
    """Return the ratio of each method to `to`, round by round; with `inverse` that of rates."""
    result = {}
    for name, times in seconds.items():
        pairs = zip(times, seconds[to], strict=True)
        result[name] = spread([b / a if inverse else a / b for a, b in pairs])
    return result


def compared(
    part: str, group: str, what: str, seconds: Seconds, target: float | None, to: str = BASELINE, *, rates: bool = False
) -> Result:
    """Return the result of DuDe over `to` with all other methods; with `rates` of rates instead of times."""
    over = ratios(seconds, to, inverse=rates)
    others = {name: value for name, value in over.items() if name not in (DUDE, to)}
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return Result(part, group, what, over[DUDE], len(seconds[DUDE]), target, rates, others, medians)
