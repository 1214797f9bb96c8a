"""The first row of every table: the base model."""

from __future__ import annotations

import time
from typing import Any

from dude_peft.files import write_json

from ..config.run_settings import RunSettings
from ..folders import checksums, sync_tree
from ..training.base_model import find_base, identity, load_base
from ..training.provenance import git_state, hardware, peak_memory, versions
from ..training.reporter import Reporter
from ..training.run_folder import SCHEMA, RunFolder


def evaluate_base(settings: RunSettings, reporter: Reporter) -> dict[str, Any]:
    """Evaluate the base model on the questions of a run; write `run.json` and all answers.

    Args:
        settings: `model`, `eval`, `train.device` and `output` are used.
        reporter: notified of everything that happens.

    Raises:
        DudeError: a model or a data set that cannot be read.
    """
    from ..evaluation.evaluator import evaluate

    assert settings.eval is not None
    begin = time.perf_counter()
    with reporter.stage(f"loading {settings.model.name}"):
        base = find_base(settings.model, device=settings.train.device)
        mark = identity(base)
        model = load_base(base)
    with reporter.stage("evaluating before training"):
        result = evaluate(model, base.tokenizer, settings.eval, progress=reporter.asked)
    folder = RunFolder(settings.output)
    result.write(folder.evaluations / "after")
    values = settings.resolved()
    record = {
        "schema": SCHEMA,
        "kind": "base",
        "config": {"model": values["model"], "eval": values["eval"]},
        "method": None,
        "title": "base",
        "r": None,
        "provenance": {
            "git": git_state(),
            "versions": versions(),
            "hardware": hardware() | {"device": base.device},
            "model": mark,
        },
        "cost": {
            "eval_seconds": round(time.perf_counter() - begin, 3),
            "peak_memory": peak_memory(base.device),
            "total_parameters": sum(p.numel() for p in model.parameters()),
        },
        "metrics": {
            "before": None,
            "after": {"headline": result.headline, "accuracy": result.accuracy, "tasks": result.metrics},
        },
    }
    record["files"] = checksums([folder.evaluations / "after"], folder.path)
    sync_tree(folder.path)
    write_json(folder.record, record, checksum=True)
    return record
