"""Results of the measurements: medians with quartiles and targets, and the JSON that holds them."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dude_peft import files

# The methods; ratios are to PEFT's LoRA with its defaults.
DUDE, BASELINE, DORA = "DuDe", "PEFT LoRA", "PEFT DoRA"
HAND, FROZEN, AXIS_IN = "hand-written LoRA", "frozen", "DuDe, axis in"
HALF_LORA = "PEFT LoRA, adapter in bfloat16"


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return number(self.median)
        return f"{number(self.median)} ({number(self.low)}-{number(self.high)})"


@dataclass(frozen=True)
class Result:
    """One row of a table: a figure of DuDe, its target, and the same figure of the baselines.

    Attributes:
        part, group, what: such as `layer`, `forward + backward, over PEFT LoRA`, `fp32 1024 x 1024, 256 tokens`.
        measured: None if it was left out; `note` says why.
        n: number of rounds.
        target: an upper limit for the median, with `higher_is_better` a lower one.
        others: the same figure of other methods.
        seconds: the median of each method, if the figure is a ratio of times.
    """

    part: str
    group: str
    what: str
    measured: Spread | None = None
    n: int = 0
    target: float | None = None
    higher_is_better: bool = False
    others: dict[str, Spread] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def verdict(self) -> str | None:
        """Return `met` or `missed`, by the median; None without a target or a measurement."""
        if self.target is None or self.measured is None:
            return None
        value = self.measured.median
        return "met" if (value >= self.target if self.higher_is_better else value <= self.target) else "missed"

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return {**asdict(self), "verdict": self.verdict}


def grouped(rows: list[Result]) -> dict[tuple[str, str], list[Result]]:
    """Return the results by part and group, both in the order of their first result."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for row in rows:
        groups.setdefault((row.part, row.group), []).append(row)
    return groups


def number(value: float) -> str:
    """Format a value with enough digits to show a difference of 1%."""
    if 0.1 <= abs(value) < 1e5:
        return f"{value:.{3 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"
    return f"{value:.3f}" if 1e-3 <= abs(value) < 0.1 else f"{value:.1e}"


def exactly(value: float) -> Spread:
    """Return a value without a spread: counted, or measured once."""
    return Spread(value, value, value)


def spread(values: list[float]) -> Spread:
    """Return the median and the quartiles."""
    if len(values) == 1:
        return exactly(values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def about(device: str, clock: str, threads: int, *, quick: bool) -> dict[str, Any]:
    """Return the conditions: device, clock, hardware, versions and, in a repository, the commit."""
    from ..training.provenance import git_state, hardware, versions

    return {
        "device": device,
        "clock": clock,
        "threads": threads,
        "quick": quick,
        "hardware": hardware(),
        "versions": versions(),
        "git": git_state(),
    }


def headline(facts: dict[str, Any]) -> str:
    """Return `about` in one line, for the table and the picture."""
    machine, commit = facts["hardware"], facts["git"]
    where = machine["gpus"][0] if facts["device"] == "cuda" else f"{machine['cpu']}, {machine['cores']} cores"
    at = f", commit {commit['sha'][:10]}{' with changes' if commit['dirty'] else ''}" if commit else ""
    return f"{where}; {facts['clock']}; torch {facts['versions']['torch']}, PEFT {facts['versions']['peft']}{at}"


def write_json(rows: list[Result], facts: dict[str, Any], path: Path, *, finished: bool) -> None:
    """Write every result and `about`; `finished` is false if the measuring was interrupted."""
    whole = {**facts, "finished": finished, "rows": [row.as_dict() for row in rows]}
    files.write_json(path, whole)
