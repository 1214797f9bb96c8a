"""Imports and the command line's help, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from .bench_plan import Case, Plan
from .bench_results import Row, spread

RUNS = {
    "peft": ["-c", "import peft"],
    "package": ["-c", "import dude_peft"],
    "config": ["-c", "from dude_peft import DudeConfig"],
    "help": ["-m", "dude_lab.cli.app", "--help"],
}
OVER, SECONDS = "wall time of a process, over import peft", "wall time of a process, seconds"


def cases(plan: Plan) -> Iterator[Case]:
    """All in the same rounds."""
    yield Case("import", "import, --help", 60, partial(measure, 1 if plan.tiny else 3 if plan.quick else 7))


def process_seconds(arguments: list[str]) -> float:
    """Wall time of a Python process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begin


def measure(rounds: int) -> Iterator[Row]:
    """`import dude_peft`, which imports neither torch nor PEFT; with its class, which needs both; and `dude --help`."""
    seconds: dict[str, list[float]] = {name: [] for name in RUNS}
    for number in range(rounds + 1 if rounds > 1 else 1):
        for name, arguments in RUNS.items():
            passed = process_seconds(arguments)
            if number or rounds == 1:  # the first round reads the files from disk
                seconds[name].append(passed)
    for name in ("package", "config"):
        over = spread([a / b for a, b in zip(seconds[name], seconds["peft"], strict=True)])
        yield Row("import", OVER, RUNS[name][1], over, rounds, 1.05)
    yield Row("import", SECONDS, "dude --help", spread(seconds["help"]), rounds, 0.3)
