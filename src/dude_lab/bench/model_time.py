"""A model: a training step (forward, backward and AdamW), and generation without merging."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from .bench_models import ALL, LLAMA, METHODS, MINI, Q_AND_V, SEVEN, SMOL, TINY, Model, adapted, models, release
from .bench_plan import Case, Plan, short
from .bench_results import BASELINE, DORA, DUDE, HAND, Result
from .timing import compared, interleave, ratios

GROUP, OVER_HAND = "forward + backward + AdamW, over PEFT LoRA", "forward + backward + AdamW, over a hand-written LoRA"
GENERATED = "tokens/s, adapters not merged, over PEFT LoRA"


def step_cases(plan: Plan) -> Iterator[Case]:
    """Return a Llama with all linear layers and with q and v alone, and models with small steps.

    These are the embedded model and one with the sizes of SmolLM2-135M and short examples, 25 tokens each.
    """
    if plan.tiny:
        models: list[tuple[Model, Any, torch.dtype, int]] = [(TINY, ALL, torch.float32, 8)]
    else:
        length = 64 if plan.quick else 128
        models = [(LLAMA, targets, dtype, length) for dtype in plan.dtypes for targets in (ALL, Q_AND_V)]
        models.append((MINI, ALL, torch.float32, length))
        if plan.device == "cpu" and not plan.quick:
            models.append((SMOL, ALL, torch.float32, 25))
        if plan.device == "cuda":
            models += [(SEVEN, targets, torch.bfloat16, 4 * length) for targets in (ALL, Q_AND_V)]
    for model, targets, dtype, length in models:
        tokens, adapted_layers = 8 * length, "all linear" if targets == ALL else "q, v"
        what = f"{short(dtype)} {model.name}, {adapted_layers}, {tokens} tokens"
        cost = 15 + tokens * model.entries / 1e9
        yield Case("step", what, cost, partial(measure, model, targets, dtype, length, what, plan))


def target_of(model: Model, dtype: torch.dtype, plan: Plan) -> float | None:
    """Return the target over PEFT's LoRA; None for the embedded model."""
    if model in (MINI, SMOL):
        return 1.08 if model is SMOL else None
    if plan.device == "cuda" and dtype == torch.bfloat16:
        return 0.95
    return 1.0 if dtype == torch.bfloat16 else 1.03


def measure(model: Model, targets: Any, dtype: torch.dtype, length: int, what: str, plan: Plan) -> Iterator[Result]:
    """Measure one model: the step over PEFT's LoRA and over the hand-written one, in the same rounds."""
    target = target_of(model, dtype, plan)
    if note := model.left_out(8 * length, dtype, plan):
        yield Result("step", GROUP, what, target=target, note=note)
        return
    made = {name: adapted(model, name, dtype, plan.device, targets) for name in METHODS}
    seconds = interleave({name: stepper(one, 8, length, plan.device) for name, one in made.items()}, plan)
    yield compared("step", GROUP, what, seconds, target)
    over = ratios(seconds, HAND)[DUDE]
    yield Result("step", OVER_HAND, what, over, len(seconds[DUDE]), None if model is MINI else 1.1)
    del made
    release()


def stepper(model: Any, batch: int, length: int, device: str) -> Callable[[], None]:
    """Return a function that runs one step, on the same random tokens each time."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    ids = torch.randint(2, 2000, (batch, length), generator=torch.Generator().manual_seed(0)).to(device)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def generation_cases(plan: Plan) -> Iterator[Case]:
    """Return every model."""
    for model, dtype in models(plan):
        new = 2 if plan.tiny else 16 if plan.quick else 32
        what = f"{short(dtype)} {model.name}, all linear, {new} tokens"
        yield Case("generate", what, 20, partial(measure_generation, model, dtype, new, what, plan))


def measure_generation(model: Model, dtype: torch.dtype, new: int, what: str, plan: Plan) -> Iterator[Result]:
    """Measure greedy generation of one sequence, with its cache."""
    made = {name: adapted(model, name, dtype, plan.device).eval() for name in (BASELINE, DORA, DUDE)}
    seconds = interleave({name: generator(one, new, plan.device) for name, one in made.items()}, plan)
    yield compared("generate", GENERATED, what, seconds, 1.0, rates=True)
    del made
    release()


def generator(model: Any, new: int, device: str) -> Callable[[], None]:
    """Generate `new` tokens after the same 16."""
    ids = torch.arange(2, 18, device=device)[None]
    settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}

    @torch.no_grad()
    def generate() -> None:
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)

    return generate
