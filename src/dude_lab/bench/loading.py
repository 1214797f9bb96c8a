"""Loading a saved adapter onto its base."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from dude_peft.checkpoint import load_adapter

from .bench_models import LLAMA, MINI, TINY, Model, adapted, base_model
from .bench_plan import Case, Plan
from .bench_results import BASELINE, DORA, DUDE, Row
from .timing import compared, interleave

GROUP = "a saved adapter onto its base, over PEFT LoRA"


def cases(plan: Plan) -> Iterator[Case]:
    """Adapters on all linear layers."""
    for model in (TINY,) if plan.tiny else (MINI,) if plan.quick else (LLAMA, MINI):
        what = f"{model.name}, all linear"
        yield Case("load", what, 15, partial(measure, model, what, plan))


def measure(model: Model, what: str, plan: Plan) -> Iterator[Row]:
    """Each method's folder, onto a fresh copy of the base that is made before the clock starts."""
    dtype = torch.float32
    with tempfile.TemporaryDirectory() as held:
        folders = {name: Path(held, name.replace(" ", "-")) for name in (BASELINE, DORA, DUDE)}
        for name, folder in folders.items():
            adapted(model, name, dtype, plan.device).save_pretrained(str(folder))
        fresh: dict[str, Any] = {}

        def get_base(name: str) -> None:
            fresh[name] = base_model(model, dtype, plan.device)

        def load(name: str) -> None:
            if name == DUDE:
                load_adapter(fresh[name], folders[name])
            else:
                PeftModel.from_pretrained(fresh[name], str(folders[name]))

        runs = {name: partial(load, name) for name in folders}
        before = {name: partial(get_base, name) for name in folders}
        yield compared("load", GROUP, what, interleave(runs, plan, before), 1.1)
