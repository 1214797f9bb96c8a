"""Generation without merging: tokens a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from .bench_models import Model, adapted, models, release
from .bench_plan import Case, Plan, short
from .bench_results import BASELINE, DORA, DUDE, Row
from .timing import compared, interleave

GROUP = "tokens/s, adapters not merged, over PEFT LoRA"


def cases(plan: Plan) -> Iterator[Case]:
    """Every model."""
    for model, dtype in models(plan):
        new = 2 if plan.tiny else 16 if plan.quick else 32
        what = f"{short(dtype)} {model.name}, all linear, {new} tokens"
        yield Case("generate", what, 20, partial(measure, model, dtype, new, what, plan))


def measure(model: Model, dtype: torch.dtype, new: int, what: str, plan: Plan) -> Iterator[Row]:
    """One sequence, greedy, with its cache."""
    made = {name: adapted(model, name, dtype, plan.device).eval() for name in (BASELINE, DORA, DUDE)}
    seconds = interleave({name: generator(one, new, plan.device) for name, one in made.items()}, plan)
    yield compared("generate", GROUP, what, seconds, 1.0, rates=True)
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
