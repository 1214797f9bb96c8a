"""The start: time and lost energy of the decomposition, beside the full SVD and what PEFT's PiSSA does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from dude_peft.svd import top_singular_triplets

from .bench_plan import Case, Plan
from .bench_results import DUDE, Result, exactly
from .timing import compared, interleave

FULL, PISSA = "torch.linalg.svd", "pissa_niter_16"
OVER_FULL, OVER_PISSA = "times as fast as the full SVD", "over pissa_niter_16"
LOST = "share of the top singular values' energy that is lost"
SMALLEST = 1e-14  # what float64 tells of such a share


def cases(plan: Plan) -> Iterator[Case]:
    """Return one size: 4096 x 4096, with `quick` a smaller one."""
    n = 64 if plan.tiny else 1024 if plan.quick else 4096
    yield Case("svd", f"{n} x {n}", (n / 1024) ** 3 * 2, partial(measure, n, plan))


def power_law(n: int, decay: float, device: str) -> Tensor:
    """Return a matrix (n, n) with singular values i^-decay; pretrained weights decay slowly."""
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(n, n, generator=generator).to(device)).Q for _ in range(2))
    return (U * torch.arange(1, n + 1, device=device).pow(-decay)) @ V.T


def captured(W: Tensor, Vh: Tensor) -> float:
    """Return ||W V||^2 in float64 for the space of the rows of Vh (r, k), which are orthonormal up to rounding."""
    return float((W.double() @ torch.linalg.qr(Vh.double().T).Q).square().sum())


def measure(n: int, plan: Plan) -> Iterator[Result]:
    """Measure the seconds and the captured energy of each method, in fewer rounds with the full SVD."""
    r, W = (4 if plan.tiny else 16), power_law(n, 0.5, plan.device)
    ways: dict[str, Callable[[], Tensor]] = {
        DUDE: lambda: top_singular_triplets(W, r).Vh,
        PISSA: lambda: torch.svd_lowrank(W, r, niter=16)[2].T,
        FULL: lambda: torch.linalg.svd(W, full_matrices=False).Vh[:r],
    }
    latest: dict[str, Tensor] = {}

    def run(name: str) -> None:
        latest[name] = ways[name]()

    runs = {name: partial(run, name) for name in ways}
    quick = interleave({name: runs[name] for name in (DUDE, PISSA)}, plan)
    slow = interleave(runs, plan, rounds=2 if n > 2048 else 3, warm_up=False)
    faster, as_fast = (40.0, 1.0) if n >= 4096 else (None, None)
    what = f"fp32 {n} x {n}, r = {r}"
    yield compared("svd", OVER_FULL, what, slow, faster, FULL, rates=True)
    energy = {name: captured(W, Vh) for name, Vh in latest.items()}
    lost = {name: max(1 - energy[name] / energy[FULL], SMALLEST) for name in (DUDE, PISSA)}
    yield Result("svd", LOST, what, exactly(lost[DUDE]), 1, 1e-8, others={PISSA: exactly(lost[PISSA])})
    yield compared("svd", OVER_PISSA, f"{what}, times as fast", quick, as_fast, PISSA, rates=True)
    fewer = exactly(lost[PISSA] / lost[DUDE])
    yield Result("svd", OVER_PISSA, f"{what}, times less energy lost", fewer, 1, 1000.0, True)
