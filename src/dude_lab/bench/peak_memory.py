"""Memory: the peak of a training step, and the largest temporary of a layer beside its weight.

On a GPU the allocator's own peak; on a CPU every allocation that torch makes, added up in the order of time.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from .bench_models import METHODS, Model, adapted, models, release
from .bench_plan import Case, Plan, short
from .bench_results import BASELINE, DORA, DUDE, Result, exactly
from .layer_time import Shape, changer, inputs, layers_of, passer
from .model_time import stepper

PEAK = "peak of a step with all its parameters, over PEFT LoRA"
TEMPORARY = "largest allocation of a layer's forward + backward, over its weight"


def cases(plan: Plan) -> Iterator[Case]:
    """Return every model, and one layer with few tokens, where only the weight is large."""
    for model, dtype in models(plan):
        length = 8 if plan.tiny else 64 if plan.quick else 128
        what = f"{short(dtype)} {model.name}, all linear, {8 * length} tokens"
        yield Case("memory", what, 20, partial(measure, model, dtype, length, what, plan))
    size = 32 if plan.tiny else 1024 if plan.quick else 4096
    shape = Shape(size, size, 4 if plan.tiny else 16, torch.float32)
    what = f"{shape}, {size // 32} tokens"
    yield Case("memory", what, 5, partial(measure_layer, shape, size // 32, what, plan))


def measure(model: Model, dtype: torch.dtype, length: int, what: str, plan: Plan) -> Iterator[Result]:
    """Measure each method on its own, one after the other."""
    used = {name: step_bytes(model, name, dtype, length, plan) for name in METHODS}
    over = {name: exactly(count / used[BASELINE]) for name, count in used.items()}
    others = {name: value for name, value in over.items() if name not in (DUDE, BASELINE)}
    yield Result("memory", PEAK, what, over[DUDE], 1, 1.02, others=others)


def step_bytes(model: Model, method: str, dtype: torch.dtype, length: int, plan: Plan) -> int:
    """Return the bytes of the parameters and of the peak of two steps beside them."""
    release()
    made = adapted(model, method, dtype, plan.device)
    step = stepper(made, 8, length, plan.device)

    def twice() -> None:  # the second has the optimizer's state
        step()
        step()

    parameters = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*made.parameters(), *made.buffers())
    }
    peak, _ = allocations(twice, plan.device)
    return sum(parameters.values()) + peak


def measure_layer(shape: Shape, tokens: int, what: str, plan: Plan) -> Iterator[Result]:
    """Measure the largest single allocation; on a GPU, which does not list them, the peak."""
    made, (x, G) = layers_of(shape, plan.device), inputs(shape, tokens, plan.device)
    weight = shape.d * shape.k * shape.dtype.itemsize
    share = {}
    for name in (BASELINE, DORA, DUDE):
        run = passer(made[name], x, G)
        run()
        changer(made[name])()
        peak, largest = allocations(run, plan.device)
        share[name] = exactly((largest or peak) / weight)
    yield Result("memory", TEMPORARY, what, share.pop(DUDE), 1, 0.5, others=share)


def allocations(run: Callable[[], Any], device: str) -> tuple[int, int]:
    """Return the peak of the bytes that `run` allocates, and its largest allocation (0 on a GPU)."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before, 0
    options: Any = {"activities": [torch.profiler.ProfilerActivity.CPU], "profile_memory": True}
    with _without_stderr(), torch.profiler.profile(**options) as profile:
        run()
    found: Any = profile.profiler
    events = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    allocated = peak = largest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak, largest = max(peak, allocated), max(largest, event.nbytes())
    return peak, largest


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what the profiler's library writes to standard error; an error is still an exception."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
