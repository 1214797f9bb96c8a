"""Comparisons whose runs are written by hand: what tables, statistics and pictures are tested on without training."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from dude_lab.compare.comparison_folder import ComparisonFolder
from dude_lab.compare.grid import Grid, PlannedRun
from dude_lab.config.compare_settings import parse_comparison

RAW: dict[str, Any] = {
    "run": {
        "model": "mini",
        "data": {"name": "mini_gsm"},
        "train": {"steps": 20},
        "eval": {"suite": "mini_csqa"},
    },
    "methods": ["lora", "dora", "full"],
    "shared": {"target_modules": ["q_proj", "v_proj"]},
    "seeds": [1, 2, 3],
    "learning_rates": [1e-3],
}


def raw(folder: Path, **changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RAW), "output": str(folder / "compare"), **changes}


def begin(folder: Path, **changes: Any) -> tuple[ComparisonFolder, Grid]:
    """A comparison whose folder is made and in which nothing has run."""
    settings = parse_comparison(raw(folder, **changes))
    made = ComparisonFolder(settings.output)
    made.begin(settings, {"name": "mini", "dtype": "float32", "sha256": "0" * 64})
    return made, made.grid()


def finish(
    folder: ComparisonFolder,
    cell: PlannedRun,
    right: dict[str, list[int]],
    *,
    loss: float = 2.0,
    validation_loss: float | None = None,
    model: str = "0" * 64,
    others: dict[str, float] | None = None,
) -> Path:
    """Write a finished run: for each task, which questions it had right; `others` are averages by name."""
    place = folder.runs / cell.name
    samples = place / "eval" / "after" / "samples"
    samples.mkdir(parents=True)
    tasks: dict[str, Any] = {}
    for task, answers in right.items():
        value = sum(answers) / len(answers)
        tasks[task] = {"task": task, "metric": "acc", "value": value, "stderr": 0.01, "n": len(answers)}
        lines = [json.dumps({"task": task, "id": str(k), "correct": bool(ok)}) for k, ok in enumerate(answers)]
        (samples / f"{task.replace('/', '__')}.jsonl").write_text("\n".join(lines) + "\n")
    for name, value in (others or {}).items():
        tasks[name] = {"task": name, "metric": "acc", "value": value, "stderr": 0.01, "n": 1}
    headline = list(tasks)[-1] if others else next(iter(tasks))
    settings = cell.settings
    record = {
        "schema": 1,
        "config": settings.resolved(),
        "method": settings.method.name,
        "title": {"lora": "LoRA", "dora": "DoRA", "full": "Full fine-tuning"}.get(settings.method.name, "Other"),
        "r": getattr(settings.method, "r", None),
        "seeds": {"seed": settings.train.seed},
        "provenance": {
            "git": {"sha": "a" * 40, "dirty": False},
            "versions": {"torch": "2", "peft": "0", "transformers": "5"},
            "hardware": {"device": "cpu", "cpu": "a processor", "gpus": [], "threads": 1, "cores": 2},
            "model": {"name": "mini", "sha256": model},
            "data": {"source": "mini_gsm", "sha256": "b" * 64},
        },
        "cost": {
            "train_seconds": 12.0,
            "init_seconds": 0.5,
            "peak_memory": {"bytes": 2**30, "kind": "process_resident"},
            "trainable_parameters": 1000,
        },
        "training": {"last_tenth_loss": loss},
        "metrics": {
            "before": None,
            "after": {
                "headline": headline,
                "accuracy": tasks[headline]["value"],
                "tasks": tasks,
                "validation_loss": validation_loss,
            },
        },
    }
    if cell.kind == "base":
        del record["seeds"]  # it is not trained
    else:
        (place / "config.yaml").write_text(json.dumps(settings.resolved()))
        curve = [{"step": k, "loss": loss + 1 / k} for k in range(1, 21)]
        (place / "curves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in curve))
    (place / "run.json").write_text(json.dumps(record))
    return place


def runs(grid: Grid) -> dict[str, tuple[PlannedRun, ...]]:
    """Row -> its runs at its first learning rate."""
    return {row.name: grid.runs(row, row.learning_rates[0]) for row in grid.rows}
