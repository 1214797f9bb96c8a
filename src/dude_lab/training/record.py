"""`run.json`: config, provenance, cost and results of a run."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dude_peft.errors import DudeError
from dude_peft.files import public_name, read_json, write_text

from ..folders import damage
from ..methods import METHODS
from .provenance import git_state, hardware, peak_memory, versions
from .run_folder import SCHEMA, RunFolder
from .run_plan import Plan

MAX_EXPONENT = math.log(sys.float_info.max)
REMEDY = "Restore it from a copy, or move the folder away and train again."


def make_record(
    plan: Plan,
    *,
    files: dict[str, str],
    model: dict[str, Any],
    curves: list[dict[str, Any]],
    started: str,
    finished: str,
    init_seconds: float,
    train_seconds: float,
    eval_seconds: float,
    tokens: int,
    last_step: int,
    best: dict[str, Any],
    saved_bytes: int,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the record of a finished run as plain JSON values.

    `files` maps paths in the run folder to SHA-256; `model` is the `identity` of the loaded base model, and
    `best` what is known of the best step.
    """
    settings, method = plan.settings, plan.settings.method
    losses = [r["loss"] for r in curves if r.get("loss") is not None]
    tail = max(1, len(losses) // 10)
    train = settings.train
    return {
        "schema": SCHEMA,
        # The folder may be moved, and published: it has no absolute path.
        "config": {**settings.resolved(), "output": public_name(str(settings.output))},
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
                "trained_on": plan.train.count,
                "dropped": plan.train.dropped,
                "truncated": plan.train.truncated,
                "max_length": plan.train.max_length,
                **({"format": plan.data.format, "chat_template": plan.data.chats} if plan.data.format else {}),
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
            "steps": last_step,
            "processes": plan.processes,
            "epochs": round(plan.epochs * last_step / plan.steps, 4),
            "first_loss": losses[0] if losses else None,
            "last_loss": losses[-1] if losses else None,
            "last_tenth_loss": fmean(losses[-tail:]) if losses else None,
            **best,
        },
        "metrics": {"before": before, "after": after},
        "files": files,
    }


def perplexity(loss: float) -> float:
    """Return exp(loss) of a loss in nats per token; infinity if it is above the largest float.

    >>> round(perplexity(1.0), 3)
    2.718
    """
    return math.exp(loss) if loss < MAX_EXPONENT else math.inf


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Model(_Section):
    name: str
    dtype: str | None = None
    sha256: str | None = None
    commit: str | None = None


class _Provenance(_Section):
    versions: dict[str, str | None]
    hardware: dict[str, Any]
    model: _Model


class _Task(_Section):
    value: float
    n: int | None = None


class _Metrics(_Section):
    headline: str | None = None
    accuracy: float | None = None
    validation_loss: float | None = None
    tasks: dict[str, _Task] = Field(default_factory=dict)


class _MetricsSection(_Section):
    before: _Metrics | None
    after: _Metrics | None


class _Peak(_Section):
    bytes: int


class _Cost(_Section):
    peak_memory: _Peak
    train_seconds: float | None = None
    eval_seconds: float | None = None
    init_seconds: float | None = None
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    tokens: int | None = None
    adapter_bytes: int | None = None


class _Seeds(_Section):
    seed: int


class _Record(_Section):
    """The keys of a record that its readers use; others are ignored."""

    config: dict[str, Any]
    method: str | None
    title: str
    r: int | None
    seeds: _Seeds | None = None
    provenance: _Provenance
    cost: _Cost
    training: dict[str, bool | float | int | str | None] | None = None
    metrics: _MetricsSection
    files: dict[str, str] = Field(default_factory=dict)


def read_record(folder: RunFolder) -> dict[str, Any]:
    """Read and verify the `run.json` of a run folder.

    Raises:
        DudeError: it is damaged, or a key is missing.
    """
    record = read_json(folder.record, REMEDY, finite=True)
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DudeError(f"{folder.record}: damaged: {where}: {first['msg']}. {REMEDY}") from None
    return record


def check_files(folder: RunFolder, record: dict[str, Any], below: Path) -> None:
    """Check files of a finished run against the checksums in its record; those of version 0.1.0 have none.

    Args:
        folder: of the run.
        record: its `run.json`.
        below: the file, or the folder of files, to check.

    Raises:
        DudeError: a file is missing or has another SHA-256.
    """
    name = below.relative_to(folder.path).as_posix()
    if found := damage(folder.path, record.get("files", {}), name):
        raise DudeError(f"{folder.path}: {found}. Restore it from a copy, or train again into another folder.")


def hide_paths(adapter: Path) -> None:
    """Replace an absolute path of the base model in a saved adapter's config and model card."""
    from dude_peft.config import publish_card

    path = adapter / "adapter_config.json"
    config = read_json(path, REMEDY)
    name = config.get("base_model_name_or_path")
    if name != public_name(name):
        text = json.dumps({**config, "base_model_name_or_path": public_name(name)}, indent=2, sort_keys=True)
        write_text(path, text + "\n")
    publish_card(adapter / "README.md")


def summary_of(record: dict[str, Any]) -> str:
    """Return method, rank, model and data of a record in one line."""
    rank = f", r = {record['r']}" if record["r"] else ""
    return f"{record['title']}{rank}: {source_of(record)}"


def source_of(record: dict[str, Any]) -> str:
    """Return model and training data of a record in one line."""
    data = record["config"]["data"]
    source = data.get("name") or data.get("hub") or data.get("train")
    source = source if isinstance(source, str) else source[0]
    model = record["config"]["model"]["name"].rstrip("/")
    return f"{model.rsplit('/', 1)[-1]} on {source.rsplit('/', 1)[-1]}"
