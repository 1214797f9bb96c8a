"""One linear layer of 4 bits: forward and backward over PEFT's LoRA on the same layer (QLoRA)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from dude_peft import DudeConfig

from .bench_plan import Case, Plan, too_long
from .bench_results import BASELINE, DORA, DUDE, FROZEN, Result
from .layer_time import Shape, changer, inputs, move, passer
from .timing import compared, interleave

GROUP = "forward + backward on 4-bit weights (NF4), over PEFT LoRA"


@lru_cache(maxsize=1)  # the cases of one shape follow each other
def layers_of(shape: Shape, device: str) -> dict[str, nn.Module]:
    """Return one layer of each method on the same 4-bit weight, in training mode, moved from its initial values."""
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    options: dict[str, Any] = {"quant_type": "nf4", "compute_dtype": shape.dtype, "compress_statistics": True}
    linear = Linear4bit(shape.k, shape.d, bias=False, **options)
    linear.load_state_dict({"weight": torch.randn(shape.d, shape.k, dtype=shape.dtype) / shape.k**0.5})
    linear = linear.to(device)
    shared: dict[str, Any] = {"r": shape.r, "target_modules": ["0"]}
    configs = {
        BASELINE: LoraConfig(**shared),
        DORA: LoraConfig(**shared, use_dora=True),
        DUDE: DudeConfig(**shared),
    }
    made: dict[str, nn.Module] = {FROZEN: linear.train()}
    for name, config in configs.items():
        base: Any = nn.Sequential(linear)
        base.is_loaded_in_4bit = True  # by which PEFT chooses its layer
        made[name] = get_peft_model(base, config)
        move(made[name].train(), 1e-3)
    return made


def cases(plan: Plan) -> Iterator[Case]:
    """Return the sizes of `layer` in float32."""
    tokens = (8,) if plan.tiny else (256, 1024)
    for d in (64,) if plan.tiny else (1024,) if plan.quick else (1024, 4096):
        for n in tokens:
            shape = Shape(d, d, 4 if plan.tiny else 16, torch.float32)
            what = f"{shape}, {n} tokens"
            yield Case("quantized", what, 12 + d * d * n / 1e9, partial(measure, shape, n, what, plan))


def measure(shape: Shape, tokens: int, what: str, plan: Plan) -> Iterator[Result]:
    """Measure one size."""
    target = 1.05 if tokens >= 1024 else 1.10
    note = too_long(shape.d * shape.k, tokens, shape.dtype, plan)
    if find_spec("bitsandbytes") is None:
        note = "left out: bitsandbytes is not installed"
    if note:
        yield Result("quantized", GROUP, what, target=target, note=note)
        return
    made, (x, G) = layers_of(shape, plan.device), inputs(shape, tokens, plan.device)
    runs = {name: passer(layer, x, G) for name, layer in made.items()}
    before = {name: changer(layer) for name, layer in made.items()}
    yield compared("quantized", GROUP, what, interleave(runs, plan, before), target)
