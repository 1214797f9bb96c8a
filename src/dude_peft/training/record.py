"""`run.json`: the config, where the numbers come from, what they cost, and what they are."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ..methods import METHODS
from .plan import Plan
from .provenance import git_state, hardware, peak_memory, versions
from .run_folder import SCHEMA


def make_record(
    plan: Plan,
    *,
    model: dict[str, Any],
    curves: list[dict[str, Any]],
    started: str,
    finished: str,
    init_seconds: float,
    train_seconds: float,
    eval_seconds: float,
    tokens: int,
    saved_bytes: int,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> dict[str, Any]:
    """The record of a finished run, in plain JSON values; seconds, bytes and tokens are what their names say.

    `model` is the `identity` of the base as it was loaded.
    """
    settings, method = plan.settings, plan.settings.method
    losses = [r["loss"] for r in curves if r.get("loss") is not None]
    tail = max(1, len(losses) // 10)
    train = settings.train
    return {
        "schema": SCHEMA,
        "config": settings.resolved(),
        "method": method.name,
        "title": METHODS[method.name].title,
        "r": getattr(method, "r", None),
        "seeds": {
            "seed": train.seed,
            "data_seed": train.seed if train.data_seed is None else train.data_seed,
            "svd_seed": getattr(method, "svd_seed", None),
        },
        "started": started,
        "finished": finished,
        "provenance": {
            "git": git_state(),
            "versions": versions(),
            "hardware": hardware() | {"device": plan.base.device},
            "model": model,
            "data": {
                "source": plan.data.source,
                "sha256": plan.data.sha256,
                "examples": len(plan.data.train),
                "trained_on": len(plan.train.data),
                "dropped": plan.train.dropped,
                "truncated": plan.train.truncated,
                "max_length": plan.train.max_length,
            },
        },
        "init": {"kind": METHODS[method.name].init, "seconds": round(init_seconds, 4)},
        "cost": {
            "train_seconds": round(train_seconds, 3),
            "eval_seconds": round(eval_seconds, 3),
            "init_seconds": round(init_seconds, 4),
            "tokens": tokens,
            "tokens_per_second": round(tokens / train_seconds, 1) if train_seconds else None,
            "peak_memory": peak_memory(plan.base.device),
            "trainable_parameters": plan.part.trainable,
            "total_parameters": plan.part.total,
            "adapter_bytes": saved_bytes,
        },
        "training": {
            "steps": plan.steps,
            "epochs": round(plan.epochs, 4),
            "first_loss": losses[0] if losses else None,
            "last_loss": losses[-1] if losses else None,
            "last_tenth_loss": fmean(losses[-tail:]) if losses else None,
        },
        "metrics": {"before": before, "after": after},
    }


def summary_of(record: dict[str, Any]) -> str:
    """Method, rank and model of a record in one line, for a picture's title."""
    rank = f", r = {record['r']}" if record["r"] else ""
    data = record["config"]["data"]
    source = data.get("name") or data.get("hub") or data.get("train")
    source = source if isinstance(source, str) else source[0]
    model = record["config"]["model"]["name"].rstrip("/")
    return f"{record['title']}{rank}: {model.rsplit('/', 1)[-1]} on {source.rsplit('/', 1)[-1]}"
