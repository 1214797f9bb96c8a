"""`dude bench`: what DuDe costs on this machine, as ratios to PEFT's LoRA taken interleaved in one run.

Each module lists its cases; a case yields `bench_results.Result`s when it is run.
Nothing is needed but the package; models have random weights or are the embedded one.
"""

from __future__ import annotations

import importlib

from .bench_plan import Case, Plan

# In the order of the table: the part, the module that measures it, and the function that lists its cases.
PARTS = {
    "layer": ("layer_time", "layer_cases"),
    "accumulate": ("layer_time", "accumulation_cases"),
    "quantized": ("quantized_layer", "cases"),
    "score": ("layer_time", "scoring_cases"),
    "step": ("model_time", "step_cases"),
    "memory": ("peak_memory", "cases"),
    "generate": ("model_time", "generation_cases"),
    "svd": ("decomposition", "cases"),
    "load": ("loading", "load_cases"),
    "import": ("loading", "import_cases"),
    "compile": ("compiled", "cases"),
    "launches": ("launches", "cases"),
}


def cases(parts: list[str], plan: Plan) -> list[Case]:
    """Return what is to be measured, in the order of the table."""
    found: list[Case] = []
    for part in parts:
        module, function = PARTS[part]
        found += getattr(importlib.import_module(f"{__name__}.{module}"), function)(plan)
    return found
