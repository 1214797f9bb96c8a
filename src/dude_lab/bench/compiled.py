"""Under torch.compile: a layer and a step of a small Llama, over PEFT's LoRA compiled too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from .bench_models import ALL, ONE_LAYER, SEVEN, TINY, Model, adapted, release
from .bench_plan import Case, Plan, short
from .bench_results import BASELINE, DORA, DUDE, Result
from .layer_time import Shape, changer, inputs, layers_of, passer
from .model_time import stepper
from .timing import compared, interleave

LAYER = "forward + backward under torch.compile, over PEFT LoRA compiled too"
STEP = "forward + backward + AdamW under torch.compile, over PEFT LoRA compiled too"
COMPARED = (BASELINE, DORA, DUDE)


def cases(plan: Plan) -> Iterator[Case]:
    """Return a layer at two lengths, and a step; compiling takes most of the time."""
    dtype = torch.bfloat16 if plan.device == "cuda" else torch.float32
    shapes = [Shape(32, 32, 4, dtype)] if plan.tiny else [Shape(1024, 1024, 16, dtype)]
    if plan.device == "cuda" and not plan.tiny:
        shapes.append(Shape(4096, 4096, 16, dtype))
    for shape in shapes:
        for tokens in (8,) if plan.tiny else (1024,) if plan.quick else (256, 1024):
            what = f"{shape}, {tokens} tokens"
            yield Case("compile", what, 40, partial(measure_layer, shape, tokens, what, plan))
    if not plan.quick:
        model = TINY if plan.tiny else SEVEN if plan.device == "cuda" else ONE_LAYER
        length = 8 if plan.tiny else 128
        what = f"{short(dtype)} {model.name}, all linear, {8 * length} tokens"
        yield Case("compile", what, 120, partial(measure_step, model, dtype, length, what, plan))


def backend(plan: Plan) -> str:
    """Return inductor, or in a test a backend that needs no compiler."""
    return "aot_eager" if plan.tiny else "inductor"


def measure_layer(shape: Shape, tokens: int, what: str, plan: Plan) -> Iterator[Result]:
    """Measure one size."""
    torch.compiler.reset()
    x, G = inputs(shape, tokens, plan.device)
    made = {name: layers_of(shape, plan.device)[name] for name in COMPARED}
    before = {name: changer(layer) for name, layer in made.items()}
    runs = {name: passer(torch.compile(layer, backend=backend(plan)), x, G) for name, layer in made.items()}  # type: ignore[arg-type]
    yield from _row(LAYER, what, runs, before, plan)


def measure_step(model: Model, dtype: torch.dtype, length: int, what: str, plan: Plan) -> Iterator[Result]:
    """Measure the compiled model; the optimizer is not compiled."""
    torch.compiler.reset()
    made = {name: adapted(model, name, dtype, plan.device, ALL) for name in COMPARED}
    runs = {}
    for name, one in made.items():
        one.compile(backend=backend(plan))
        runs[name] = stepper(one, 8, length, plan.device)
    yield from _row(STEP, what, runs, {}, plan)
    del made
    release()


def _row(group: str, what: str, runs: dict[str, Callable[[], Any]], before: Any, plan: Plan) -> Iterator[Result]:
    """Compile by two calls, and measure; without a compiler a note."""
    try:
        for name, run in runs.items():
            before.get(name, lambda: None)()
            run()
            run()
    except Exception as error:  # whatever a backend raises where it does not work
        first = str(error).strip().partition("\n")[0][:60]
        yield Result("compile", group, what, note=f"not compiled here: {type(error).__name__}: {first}")
        return
    yield compared("compile", group, what, interleave(runs, plan, before), None)
