"""What to measure, how thoroughly, and what is left out because it would take too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import torch

from .bench_results import Result

# Seconds that one call may take on a CPU. Processors without units for bfloat16 need a hundred times as long for it.
LONGEST = {torch.float32: 15.0, torch.bfloat16: 1.0}


@dataclass(frozen=True)
class Plan:
    """How to measure: the device, and whether sizes and rounds are cut to what takes a minute or, `tiny`, a test."""

    device: str = "cpu"
    quick: bool = False
    tiny: bool = False

    def rounds(self, seconds: float) -> int:
        """Return the number of rounds of so many seconds that fit in a few seconds, within limits."""
        if self.tiny:
            return 3
        least, budget = (3, 3.0) if self.quick else (5, 12.0)
        return max(least, min(51, int(budget / max(seconds, 1e-6))))

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Return float32, and bfloat16 except in tests."""
        return (torch.float32,) if self.tiny else (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        part, what: where it stands in the table.
        cost: how long it takes beside the others; about seconds on two cores. Only for the time left.
        measure: does it.
    """

    part: str
    what: str
    cost: float
    measure: Callable[[], Iterable[Result]]


def cpu_clock(threads: int) -> Callable[[], float]:
    """Return the CPU time of the thread if there is only one, which a busy machine disturbs less, else wall time."""
    return time.thread_time if threads == 1 else time.perf_counter


def clock_name(device: str) -> str:
    """Return the name of the clock for the table."""
    if device == "cuda":
        return "CUDA events"
    threads = torch.get_num_threads()
    return "CPU time of 1 thread" if threads == 1 else f"wall time with {threads} threads"


def short(dtype: torch.dtype) -> str:
    """Return the short name of a dtype: fp32, bf16."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


@cache
def speed_of_products(dtype: torch.dtype, threads: int) -> float:
    """Return the floating-point operations a second of a small product with a weight and its transpose, best of 3."""
    a, b = torch.ones(64, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    now, seconds = cpu_clock(threads), 0.0
    for other in (b, b.T):
        best = float("inf")
        for _ in range(3):
            begin = now()
            a @ other
            best = min(best, now() - begin)
        seconds += best
    return 4 * a.shape[0] * b.numel() / seconds


def too_long(entries: int, tokens: int, dtype: torch.dtype, plan: Plan) -> str:
    """Return why a forward and backward of `entries` weights is left out, or an empty string."""
    if plan.device != "cpu":
        return ""
    seconds = 4 * entries * tokens / speed_of_products(dtype, torch.get_num_threads())
    return f"left out: {short(dtype)} needs about {seconds:.0f} s a call here" if seconds > LONGEST[dtype] else ""
