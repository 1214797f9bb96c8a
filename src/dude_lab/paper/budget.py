"""Estimated cost of a comparison: steps, memory and hours, without data, weights or network.

Hours are a model, not a measurement. On a GPU a pass over some tokens takes the longest of

- its products at `MFU` of the peak of an H100 SXM in the dtype (bfloat16; TF32 where the weights are float32),
- reading the weights at `BANDWIDTH_SHARE` of its memory's bandwidth,
- `LAUNCH` seconds a layer, below which small batches do not get: what batches of one short question are limited by.

A training micro-batch is a forward, a backward of the inputs, one more forward with gradient checkpointing, and with
full fine-tuning a backward of the weights. On a CPU (`mini`, `smollm2`) it is tokens over `CPU_TOKENS`, one thread in
float32: medians of the runs in `studies/mini` on an AMD EPYC with AVX2, and of SmolLM2 on an Intel Xeon with AVX512.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..compare.grid import Grid
from ..compare.rows import Row, picked
from ..config.run_settings import RunSettings
from ..methods import METHODS, FullSettings, TargetSettings
from ..training.estimates import ModelSize, step_count, training_bytes
from .recipe import Estimate, StudyComparison
from .shapes import Shape, shape_of

PEAK = {2: 989e12, 4: 495e12}  # FLOP/s of an H100 SXM: bfloat16 and TF32, dense (NVIDIA's data sheet)
MFU = 0.4
BANDWIDTH, BANDWIDTH_SHARE = 3.35e12, 0.6  # bytes/s (the same sheet)
LAUNCH = 0.0012  # s a layer and pass, eager PyTorch with adapters
CPU_TOKENS = {  # tokens/s of one thread
    "mini": {"train": 1300.0, "read": 9000.0, "write": 600.0},
    "smollm2": {"train": 170.0, "read": 390.0, "write": 60.0},
}
CPU_START = 7.0  # s: a process begins, loads its libraries, tokenizes
GPUS = {"H100": 80e9, "H200": 141e9}


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a comparison.

    Attributes:
        runs: number of training runs.
        searches: number of search runs for learning rates.
        steps: optimizer steps of a run.
        tokens: training tokens of a run.
        trainable: trainable parameters of the method with the most.
        memory: bytes of the method that needs most.
        hours: hours of one device (a GPU, or a CPU core) for all runs and searches.
        run_hours: name of each run -> its hours, so that runs that comparisons share can be counted once.
    """

    runs: int
    searches: int
    steps: int
    tokens: int
    trainable: int
    memory: int
    hours: float
    run_hours: dict[str, float]

    @property
    def gpu(self) -> str:
        """Name of the smallest GPU with enough memory."""
        return next((name for name, size in GPUS.items() if self.memory < 0.95 * size), "none alone")


def cost(comparison: StudyComparison) -> Cost:
    """Estimate the cost of a comparison.

    Raises:
        DudeError: the shape of the model is not known, or it lacks a target module.
    """
    grid = Grid(comparison.settings, comparison.model.name, comparison.settings.output, comparison.source)
    rows = picked(grid.rows, comparison.only)
    first = grid.runs(rows[0], rows[0].learning_rates[0])[0].settings
    shape, estimate = shape_of(first.model.name), comparison.recipe.estimate
    hours: dict[str, float] = {}
    trainable, memory = 0, 0
    for row in rows:
        values, frozen = _trained(row, shape)
        trainable, memory = max(trainable, values), max(memory, _memory(row, first, shape, estimate, values, frozen))
        rate = row.learning_rates[-1 if comparison.settings.search.above else 0]
        for run in (*grid.searches(row), *grid.runs(row, rate)):
            hours[run.name] = _hours(run.settings, shape, estimate, full=isinstance(row.method, FullSettings))
    if grid.base_run is not None:
        hours[grid.base_run.name] = _asking(first, shape, estimate, times=1) / 3600
    steps = _steps(first, estimate)
    train = first.train
    return Cost(
        runs=len(rows) * len(comparison.settings.seeds),
        searches=sum(len(grid.searches(row)) for row in rows),
        steps=steps,
        tokens=steps * train.batch_size * train.gradient_accumulation * estimate.tokens,
        trainable=trainable,
        memory=memory,
        hours=sum(hours.values()),
        run_hours=hours,
    )


def _steps(settings: RunSettings, estimate: Estimate) -> int:
    examples = min(x for x in (estimate.examples, settings.data.sample, settings.data.limit) if x is not None)
    return step_count(settings.train, examples)[0]


def _trained(row: Row, shape: Shape) -> tuple[int, int]:
    """Return the trainable parameters of the method, and those that it adds frozen in float32."""
    method = METHODS[row.method.name]
    if not isinstance(row.method, TargetSettings):
        return shape.counted, 0
    targets = shape.targets(row.method.target_modules, row.r or 0)
    return sum(method.count(row.method, target) for target in targets), method.frozen(row.method, targets)


def _width(settings: RunSettings, *, full: bool) -> int:
    """Return the bytes of a weight; `model.dtype: auto` is resolved for the hardware of the scale."""
    if settings.model.dtype != "auto":
        return 4 if settings.model.dtype == "float32" else 2
    return 4 if full or settings.model.name in CPU_TOKENS else 2


def _memory(row: Row, settings: RunSettings, shape: Shape, estimate: Estimate, trained: int, frozen: int) -> int:
    full = isinstance(row.method, FullSettings)
    size = ModelSize(shape.counted, shape.hidden, shape.layers, shape.vocabulary, _width(settings, full=full))
    batch, length = settings.train.batch_size, estimate.longest
    return sum(
        training_bytes(size, settings.train, trainable=trained, frozen=frozen, full=full, batch=batch, length=length)
    )


def _hours(settings: RunSettings, shape: Shape, estimate: Estimate, *, full: bool) -> float:
    train = settings.train
    steps = _steps(settings, estimate)
    micro = steps * train.gradient_accumulation
    tokens = train.batch_size * estimate.tokens
    if (cpu := CPU_TOKENS.get(settings.model.name)) is not None:
        seconds = CPU_START + micro * tokens / cpu["train"] * (1.2 if full else 1.0)
    else:
        passes = 2 + full + train.gradient_checkpointing
        seconds = micro * passes * _pass(shape, tokens, _width(settings, full=full))
    every = settings.eval.every if settings.eval is not None else None
    return (seconds + _asking(settings, shape, estimate, times=math.ceil(steps / every) if every else 1)) / 3600


def _pass(shape: Shape, tokens: float, width: int) -> float:
    """Return the seconds of a forward over `tokens` on the GPU."""
    products = 2 * shape.in_products * tokens / (MFU * PEAK[width])
    reading = width * shape.in_products / (BANDWIDTH_SHARE * BANDWIDTH)
    return max(products, reading, LAUNCH * shape.layers)


def _asking(settings: RunSettings, shape: Shape, estimate: Estimate, *, times: int) -> float:
    """Return the seconds of all evaluations of a run."""
    if settings.eval is None or not settings.eval.has_tasks:
        return 0.0
    questions = estimate.questions
    if settings.eval.limit is not None and len(settings.eval.names) == 1 and "mmlu" not in settings.eval.names[0]:
        questions = min(questions, settings.eval.limit)
    read = questions * estimate.question_tokens
    if (cpu := CPU_TOKENS.get(settings.model.name)) is not None:
        return times * (read / cpu["read"] + questions * estimate.generated / cpu["write"])
    width, batch = _width(settings, full=settings.method.name == "full"), settings.eval.batch_size
    batches = math.ceil(questions / batch)
    reading = batches * _pass(shape, batch * estimate.question_tokens, width)
    return times * (reading + batches * estimate.generated * _pass(shape, batch, width))
