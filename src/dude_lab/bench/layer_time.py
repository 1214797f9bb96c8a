"""One linear layer: forward and backward, with parameters that change as in training, and the forward alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from dude_peft import DudeConfig

from .bench_plan import Case, Plan, short, too_long
from .bench_results import AXIS_IN, BASELINE, DORA, DUDE, FROZEN, HAND, Result
from .lora_by_hand import HandLora
from .timing import compared, interleave

GROUP = "forward + backward, over PEFT LoRA"
GROUP_IN = 'forward + backward with magnitude_axis="in", over PEFT LoRA'
SCORED = "forward in eval mode without a gradient, over PEFT LoRA"
MICRO_STEPS, TOKENS = 8, 256
ACCUMULATED = f"{MICRO_STEPS} micro-steps and one change of the parameters, over PEFT LoRA"


class Shape(NamedTuple):
    """A weight (d, k) and the adapters' rank."""

    d: int
    k: int
    r: int
    dtype: torch.dtype

    def __str__(self) -> str:
        rank = "" if self.r == 16 else f", r = {self.r}"
        return f"{short(self.dtype)} {self.d} x {self.k}{rank}"


@lru_cache(maxsize=1)  # the cases of one shape follow each other
def layers_of(shape: Shape, device: str) -> dict[str, nn.Module]:
    """Return one layer of each method on the same weight, in training mode, moved from its initial values."""
    torch.manual_seed(0)
    linear = nn.Linear(shape.k, shape.d, bias=False, dtype=shape.dtype, device=device).requires_grad_(False)
    shared: dict[str, Any] = {"r": shape.r, "target_modules": ["0"]}
    configs = {
        BASELINE: LoraConfig(**shared),
        DORA: LoraConfig(**shared, use_dora=True),
        DUDE: DudeConfig(**shared),
    }
    if max(shape.d, shape.k) <= 1024:
        configs[AXIS_IN] = DudeConfig(**shared, magnitude_axis="in")
    made: dict[str, nn.Module] = {FROZEN: linear, HAND: HandLora(linear, shape.r)}
    for name, config in configs.items():
        base = nn.Sequential(nn.Linear(shape.k, shape.d, bias=False, dtype=shape.dtype, device=device))
        base[0].weight = linear.weight
        made[name] = get_peft_model(base, config).to(device)  # type: ignore[arg-type]
    for layer in made.values():
        move(layer.train(), 1e-3)
    return made


@torch.no_grad()
def move(module: nn.Module, scale: float) -> None:
    """Add noise of standard deviation `scale` to every trained parameter."""
    for p in module.parameters():
        if p.requires_grad:
            p.add_(torch.randn_like(p), alpha=scale)


def changer(layer: nn.Module) -> Callable[[], None]:
    """Return a function that changes the trained parameters a little, as an optimizer step does."""
    trained = [p for p in layer.parameters() if p.requires_grad]

    @torch.no_grad()
    def change() -> None:
        for p in trained:
            p.mul_(1.0001)
            p.grad = None

    return change


def passer(layer: nn.Module, x: torch.Tensor, G: torch.Tensor, times: int = 1) -> Callable[[], None]:
    """Return a function that runs forward and backward; x requires its gradient, as in a deep model."""

    def run() -> None:
        for _ in range(times):
            x.grad = None
            layer(x).backward(G)

    return run


def inputs(shape: Shape, tokens: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x (tokens, k) and dL/dy (tokens, d)."""
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(tokens, n, generator=generator).to(device, shape.dtype) for n in (shape.k, shape.d)]
    return made[0].requires_grad_(), made[1]


def sizes(plan: Plan) -> Iterator[tuple[Shape, tuple[int, ...]]]:
    """Return shapes and tokens of the table: square ones, and on a GPU those of a 7B model's q, v and MLP."""
    if plan.tiny:
        yield Shape(32, 32, 4, torch.float32), (8,)
        return
    tokens = (256, 1024) if plan.quick else (64, 256, 1024, 4096)
    for dtype in plan.dtypes:
        for d in (1024,) if plan.quick else (1024, 4096):
            yield Shape(d, d, 16, dtype), tokens
    if plan.device == "cuda":
        for d, k in ((4096, 4096), (1024, 4096), (4096, 11008)):
            for r in (16,) if plan.quick else (16, 64, 256):
                yield Shape(d, k, r, torch.bfloat16), (1024, 16384) if plan.quick else (1024, 4096, 16384)


def layer_cases(plan: Plan) -> Iterator[Case]:
    """Return every size once."""
    seen = set()
    for shape, all_tokens in sizes(plan):
        for tokens in all_tokens:
            if (shape, tokens) not in seen:
                seen.add((shape, tokens))
                what = f"{shape}, {tokens} tokens"
                cost = 12 + shape.d * shape.k * tokens / 1e9
                yield Case("layer", what, cost, partial(measure, shape, tokens, what, plan))


def measure(shape: Shape, tokens: int, what: str, plan: Plan) -> Iterator[Result]:
    """Measure one size. Below 256 tokens, where r more rows in a product weigh, there is no target."""
    target = 1.0 if tokens >= 1024 else 1.05 if tokens >= 256 or plan.tiny else None
    if note := too_long(shape.d * shape.k, tokens, shape.dtype, plan):
        yield Result("layer", GROUP, what, target=target, note=note)
        return
    made, (x, G) = layers_of(shape, plan.device), inputs(shape, tokens, plan.device)
    runs = {name: passer(layer, x, G) for name, layer in made.items()}
    before = {name: changer(layer) for name, layer in made.items()}
    seconds = interleave(runs, plan, before)
    axis_in = seconds.pop(AXIS_IN, None)
    yield compared("layer", GROUP, what, seconds, target)
    if axis_in is not None:
        del seconds[HAND]
        yield compared("layer", GROUP_IN, what, {**seconds, DUDE: axis_in}, None)


def scoring_cases(plan: Plan) -> Iterator[Case]:
    """Return one token, as in generation, and batches, at widths with and without a cached W'."""
    for dtype in plan.dtypes:
        for d in (32,) if plan.tiny else (576, 1024) if plan.quick else (576, 1024, 4096):
            for tokens in (1, 64) if plan.tiny else (1, 512, 1024):
                shape = Shape(d, d, 4 if plan.tiny else 16, dtype)
                what = f"{shape}, {tokens} token{'s' if tokens > 1 else ''}"
                cost = 12 + d * d * tokens / 3e9
                yield Case("score", what, cost, partial(measure_scoring, shape, tokens, what, plan))


def measure_scoring(shape: Shape, tokens: int, what: str, plan: Plan) -> Iterator[Result]:
    """Measure one size; parameters stay, and the first call fills what DuDe caches."""
    if note := too_long(shape.d * shape.k, tokens // 2, shape.dtype, plan):  # one product instead of two
        yield Result("score", SCORED, what, target=1.0, note=note)
        return
    x, times = inputs(shape, tokens, plan.device)[0].detach(), 32 if tokens == 1 else 1
    made = {name: layer.eval() for name, layer in layers_of(shape, plan.device).items() if name != AXIS_IN}
    for layer in made.values():
        layer.zero_grad()  # beside a gradient nothing is cached
    runs = {name: evaluator(layer, x, times) for name, layer in made.items()}
    yield compared("score", SCORED, what, interleave(runs, plan), 1.0)
    for layer in made.values():
        layer.train()


def evaluator(layer: nn.Module, x: torch.Tensor, times: int) -> Callable[[], None]:
    """Return a function that runs the forward without a gradient."""

    @torch.no_grad()
    def run() -> None:
        for _ in range(times):
            layer(x)

    return run


def accumulation_cases(plan: Plan) -> Iterator[Case]:
    """Return the table's sizes at 256 tokens."""
    tokens = 8 if plan.tiny else TOKENS
    for dtype in plan.dtypes:
        for d in (32,) if plan.tiny else (1024,) if plan.quick else (1024, 4096):
            shape = Shape(d, d, 4 if plan.tiny else 16, dtype)
            what = f"{shape}, {tokens} tokens each"
            yield Case("accumulate", what, 13 + d * d / 1e6, partial(measure_accumulation, shape, tokens, what, plan))


def measure_accumulation(shape: Shape, tokens: int, what: str, plan: Plan) -> Iterator[Result]:
    """Measure one size: the gradients add up, as between optimizer steps."""
    if note := too_long(shape.d * shape.k, tokens * MICRO_STEPS, shape.dtype, plan):
        yield Result("accumulate", ACCUMULATED, what, target=1.02, note=note)
        return
    made, (x, G) = layers_of(shape, plan.device), inputs(shape, tokens, plan.device)
    made = {name: layer for name, layer in made.items() if name not in (FROZEN, AXIS_IN)}
    runs = {name: passer(layer, x, G, MICRO_STEPS) for name, layer in made.items()}
    before = {name: changer(layer) for name, layer in made.items()}
    yield compared("accumulate", ACCUMULATED, what, interleave(runs, plan, before), 1.02)
