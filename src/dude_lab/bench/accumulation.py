"""Gradient accumulation: several micro-steps of a layer for one change of its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from .bench_plan import Case, Plan, too_long
from .bench_results import AXIS_IN, FROZEN, Row
from .layer_time import Shape, changer, contestants, inputs, passer
from .timing import compared, interleave

MICRO_STEPS, TOKENS = 8, 256
GROUP = f"{MICRO_STEPS} micro-steps and one change of the parameters, over PEFT LoRA"


def cases(plan: Plan) -> Iterator[Case]:
    """The table's sizes at 256 tokens."""
    tokens = 8 if plan.tiny else TOKENS
    for dtype in plan.dtypes:
        for d in (32,) if plan.tiny else (1024,) if plan.quick else (1024, 4096):
            shape = Shape(d, d, 4 if plan.tiny else 16, dtype)
            what = f"{shape}, {tokens} tokens each"
            yield Case("accumulate", what, 13 + d * d / 1e6, partial(measure, shape, tokens, what, plan))


def measure(shape: Shape, tokens: int, what: str, plan: Plan) -> Iterator[Row]:
    """One size: the gradients add up, as between optimizer steps."""
    if note := too_long(shape.d * shape.k, tokens * MICRO_STEPS, shape.dtype, plan):
        yield Row("accumulate", GROUP, what, reach=1.02, note=note)
        return
    made, (x, G) = contestants(shape, plan.device), inputs(shape, tokens, plan.device)
    made = {name: layer for name, layer in made.items() if name not in (FROZEN, AXIS_IN)}
    runs = {name: passer(layer, x, G, MICRO_STEPS) for name, layer in made.items()}
    before = {name: changer(layer) for name, layer in made.items()}
    yield compared("accumulate", GROUP, what, interleave(runs, plan, before), 1.02)
