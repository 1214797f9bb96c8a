"""`dude bench`: what DuDe costs on this machine, as ratios to PEFT's LoRA taken interleaved in one run.

Each room measures one thing: its `cases(plan)` lists what there is, and a case yields `results.Row`s when it is run.
Nothing is needed but the package; models have random weights or are the embedded one.
"""

from __future__ import annotations

import importlib

from .bench_plan import Case, Plan

# In the order of the table: the part, and the room that measures it.
PARTS = {
    "layer": "layer",
    "accumulate": "accumulation",
    "step": "step",
    "memory": "memory",
    "generate": "generation",
    "svd": "decomposition",
    "load": "loading",
    "import": "imports",
    "compile": "compiled",
}


def cases(parts: list[str], plan: Plan) -> list[Case]:
    """What is to be measured, in the order of the table."""
    rooms = [importlib.import_module(f"{__name__}.{PARTS[part]}") for part in parts]
    return [case for room in rooms for case in room.cases(plan)]
