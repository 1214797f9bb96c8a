"""The files of a result: the adapter or model, its tokenizer, the picture, and the metrics before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dude_peft.files import read_json, sync

from ..folders import atomic_folder, folder_bytes, sync_tree
from ..methods import METHODS
from .record import hide_paths, summary_of
from .run_folder import RunFolder
from .run_plan import Plan

INITIAL = "start"  # folder in `checkpoints`: the adapter before the first step


def save_initial(model: Any, plan: Plan, folder: RunFolder) -> None:
    """Save the initial adapter if PEFT overwrote the base weights: the result is saved as a difference to it."""
    if not METHODS[plan.settings.method.name].overwrites_base:
        return
    config = model.peft_config["default"]
    kind, config.init_lora_weights = config.init_lora_weights, True
    model.save_pretrained(folder.checkpoints / INITIAL)
    config.init_lora_weights = kind


def save_result(model: Any, plan: Plan, folder: RunFolder) -> tuple[Path, int]:
    """Write the adapter, or the model of full fine-tuning, and its tokenizer; return the folder and its bytes.

    An adapter's bytes are without tokenizer and card.
    """
    place = folder.model if plan.full else folder.adapter
    with atomic_folder(place, overwrite=True) as part:  # of a process that was killed before it wrote the record
        if METHODS[plan.settings.method.name].overwrites_base:
            initial = folder.checkpoints / INITIAL
            model.save_pretrained(part, path_initial_model_for_weight_conversion=str(initial))
        else:
            model.save_pretrained(part)
        if not plan.full:
            hide_paths(part)
            card = part / "README.md"  # PEFT's, mostly empty; that of the project replaces it, with the record
            saved_bytes = folder_bytes(part) - (card.stat().st_size if card.is_file() else 0)
        plan.base.tokenizer.save_pretrained(part)
        if plan.full:
            saved_bytes = folder_bytes(part)
    return place, saved_bytes


def sync_result(folder: RunFolder) -> None:
    """Flush all files of the result to disk."""
    if folder.evaluations.is_dir():
        sync_tree(folder.evaluations)
    for path in (folder.curves, folder.picture, folder.config):
        if path.is_file():
            sync(path)
    sync(folder.path)


def draw_result(curves: list[dict[str, Any]], record: dict[str, Any], folder: RunFolder) -> None:
    """Draw the run's picture."""
    from .curves import draw_curves

    draw_curves(curves, folder.picture, record["method"], title=summary_of(record))


def metrics_before(manifest: dict[str, Any], folder: RunFolder) -> dict[str, Any] | None:
    """Return the metrics before the first step, from a checkpoint or (version 0.1.0) from the evaluation folder."""
    path = folder.evaluations / "before" / "summary.json"
    if "before" in manifest or not path.is_file():
        return manifest.get("before")
    return read_json(path, "Restore it from a copy, or remove it to resume without these metrics.")
