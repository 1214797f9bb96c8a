"""A whole training step: forward, backward and AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from .bench_models import ALL, LLAMA, METHODS, MINI, Q_AND_V, SEVEN, TINY, Model, adapted, release
from .bench_plan import Case, Plan, short
from .bench_results import DUDE, HAND, Row
from .timing import compared, interleave, ratios

GROUP, OVER_HAND = "forward + backward + AdamW, over PEFT LoRA", "the same, over a hand-written LoRA"


def cases(plan: Plan) -> Iterator[Case]:
    """A Llama with all linear layers and with q and v alone, and the embedded model, where small operations decide."""
    if plan.tiny:
        models: list[tuple[Model, Any, torch.dtype, int]] = [(TINY, ALL, torch.float32, 8)]
    else:
        length = 64 if plan.quick else 128
        models = [(LLAMA, targets, dtype, length) for dtype in plan.dtypes for targets in (ALL, Q_AND_V)]
        models.append((MINI, ALL, torch.float32, length))
        if plan.device == "cuda":
            models += [(SEVEN, targets, torch.bfloat16, 4 * length) for targets in (ALL, Q_AND_V)]
    for model, targets, dtype, length in models:
        tokens, told = 8 * length, "all linear" if targets == ALL else "q, v"
        what = f"{short(dtype)} {model.name}, {told}, {tokens} tokens"
        cost = 15 + tokens * model.entries / 1e9
        yield Case("step", what, cost, partial(measure, model, targets, dtype, length, what, plan))


def reach_of(model: Model, dtype: torch.dtype, plan: Plan) -> float | None:
    """Over PEFT's LoRA: none for the embedded model."""
    if model is MINI:
        return None
    if plan.device == "cuda" and dtype == torch.bfloat16:
        return 0.95
    return 1.0 if dtype == torch.bfloat16 else 1.03


def measure(model: Model, targets: Any, dtype: torch.dtype, length: int, what: str, plan: Plan) -> Iterator[Row]:
    """One model: DuDe's step over PEFT's, and over the rival's, from the same rounds."""
    reach = reach_of(model, dtype, plan)
    if note := model.left_out(8 * length, dtype, plan):
        yield Row("step", GROUP, what, reach=reach, note=note)
        return
    made = {name: adapted(model, name, dtype, plan.device, targets) for name in METHODS}
    seconds = interleave({name: stepper(one, 8, length, plan.device) for name, one in made.items()}, plan)
    yield compared("step", GROUP, what, seconds, reach)
    over = ratios(seconds, HAND)[DUDE]
    yield Row("step", OVER_HAND, what, over, len(seconds[DUDE]), None if model is MINI else 1.1)
    del made
    release()


def stepper(model: Any, batch: int, length: int, device: str) -> Callable[[], None]:
    """One step on the same random tokens each time."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    ids = torch.randint(2, 2000, (batch, length), generator=torch.Generator().manual_seed(0)).to(device)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
