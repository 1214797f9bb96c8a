"""Loading: a saved adapter onto its base, and the package or the command into a process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from dude_peft.checkpoint import load_adapter

from .bench_models import LLAMA, MINI, TINY, Model, adapted, base_model
from .bench_plan import Case, Plan
from .bench_results import BASELINE, DORA, DUDE, Result, spread
from .timing import compared, interleave

GROUP = "a saved adapter onto its base, over PEFT LoRA"
RUNS = {
    "peft": ["-c", "import peft"],
    "package": ["-c", "import dude_peft"],
    "config": ["-c", "from dude_peft import DudeConfig"],
    "help": ["-m", "dude_lab.cli.app", "--help"],
}
OVER, SECONDS = "wall time of a process, over import peft", "wall time of a process, seconds"


def load_cases(plan: Plan) -> Iterator[Case]:
    """Return adapters on all linear layers."""
    for model in (TINY,) if plan.tiny else (MINI,) if plan.quick else (LLAMA, MINI):
        what = f"{model.name}, all linear"
        yield Case("load", what, 15, partial(measure, model, what, plan))


def measure(model: Model, what: str, plan: Plan) -> Iterator[Result]:
    """Measure each method's folder on a fresh copy of the base, which is not timed."""
    dtype = torch.float32
    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root, name.replace(" ", "-")) for name in (BASELINE, DORA, DUDE)}
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


def import_cases(plan: Plan) -> Iterator[Case]:
    """Return one case: all imports in the same rounds."""
    yield Case("import", "import, --help", 60, partial(measure_imports, 1 if plan.tiny else 3 if plan.quick else 7))


def process_seconds(arguments: list[str]) -> float:
    """Return the wall time of a Python process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begin


def measure_imports(rounds: int) -> Iterator[Result]:
    """Measure `import dude_peft`, which imports no torch, that of `DudeConfig`, which needs it, and `dude --help`."""
    seconds: dict[str, list[float]] = {name: [] for name in RUNS}
    for number in range(rounds + 1 if rounds > 1 else 1):
        for name, arguments in RUNS.items():
            passed = process_seconds(arguments)
            if number or rounds == 1:  # the first round reads the files from disk
                seconds[name].append(passed)
    for name in ("package", "config"):
        over = spread([a / b for a, b in zip(seconds[name], seconds["peft"], strict=True)])
        yield Result("import", OVER, RUNS[name][1], over, rounds, 1.05)
    yield Result("import", SECONDS, "dude --help", spread(seconds["help"]), rounds, 0.3)
