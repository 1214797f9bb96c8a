"""The measurements as JSON, with where and how they were taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dude_peft import files

from .bench_plan import Plan, clock_name
from .bench_results import Row


def about(plan: Plan) -> dict[str, Any]:
    """Device, clock, hardware, versions and, inside its own repository, the commit."""
    from ..training.provenance import git_state, hardware, versions

    return {
        "device": plan.device,
        "clock": clock_name(plan.device),
        "threads": torch.get_num_threads(),
        "quick": plan.quick,
        "hardware": hardware(),
        "versions": versions(),
        "git": git_state(),
    }


def headline(facts: dict[str, Any]) -> str:
    """One line of `about`, for the table and the picture."""
    machine, commit = facts["hardware"], facts["git"]
    where = machine["gpus"][0] if facts["device"] == "cuda" else f"{machine['cpu']}, {machine['cores']} cores"
    at = f", commit {commit['sha'][:10]}{' with changes' if commit['dirty'] else ''}" if commit else ""
    return f"{where}; {facts['clock']}; torch {facts['versions']['torch']}, PEFT {facts['versions']['peft']}{at}"


def write_json(rows: list[Row], facts: dict[str, Any], path: Path, *, finished: bool) -> None:
    """Every row beside `about`; `finished` is false where measuring was stopped."""
    whole = {**facts, "finished": finished, "rows": [row.as_dict() for row in rows]}
    files.write_json(path, whole)
