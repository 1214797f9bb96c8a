"""The search for the learning rate of a row: the best of its candidates on validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dude_peft.files import write_json

from .comparison_folder import SCHEMA, ComparisonFolder
from .grid import Grid, PlannedRun
from .rows import Row


@dataclass(frozen=True)
class SearchResult:
    """The result of the search of a row.

    Attributes:
        row: name of the row.
        candidates: learning rate, run, and metrics on validation; for a failed run `error` instead.
        learning_rate: the best, or with `search.above` the next larger one; None if every candidate failed, or if none
            is larger.
        at_end: whether the best is the smallest or largest candidate, so that a better one may lie beyond.
    """

    row: str
    candidates: tuple[dict[str, Any], ...]
    learning_rate: float | None
    at_end: bool

    @property
    def warning(self) -> str | None:
        """A warning about the result; None if there is none."""
        if self.learning_rate is None and any("error" not in one for one in self.candidates):
            return f"{self.row}: the best learning rate is the largest of those tried, so there is none above to run"
        if self.learning_rate is None:
            return f"{self.row}: every learning rate failed, so it is not run; the errors are in state/*.failed.json"
        if not self.at_end:
            return None
        rates = ", ".join(f"{one['learning_rate']:g}" for one in self.candidates)
        best = f"{self.row}: the best learning rate, {self.learning_rate:g},"
        return f"{best} is the smallest or largest of the search ({rates})"


def choose(
    grid: Grid, row: Row, folder: ComparisonFolder, has_failed: Callable[[PlannedRun], bool] | None = None
) -> SearchResult | None:
    """Choose the learning rate of a row; return None while a candidate is neither finished nor failed.

    The highest accuracy wins; ties go to the lowest validation loss, then the lowest loss over the last tenth of
    training, then the smallest learning rate.

    Args:
        grid: the comparison.
        row: a row with several learning rates.
        folder: folder of the comparison.
        has_failed: whether a run has failed and is not retried; default: whether it has a record of a failure.
    """
    gone = has_failed or (lambda run: folder.failure(run) is not None)
    candidates = []
    for rate, run in zip(row.learning_rates, grid.searches(row), strict=True):
        one: dict[str, Any] = {"learning_rate": rate, "run": run.name}
        if (record := folder.record(run)) is not None:
            one |= _measured(record)
        elif gone(run):
            one["error"] = (folder.failure(run) or {}).get("error", "failed")
        else:
            return None
        candidates.append(one)
    good = [one for one in candidates if "error" not in one]
    best = min(good, key=_order)["learning_rate"] if good else None
    if best is not None and grid.settings.search.above:
        above = min((rate for rate in row.learning_rates if rate > best), default=None)
        return SearchResult(row.name, tuple(candidates), above, False)
    return SearchResult(row.name, tuple(candidates), best, best in (min(row.learning_rates), max(row.learning_rates)))


def write_search(folder: ComparisonFolder, found: list[SearchResult]) -> None:
    """Write `search.json`: every choice with all candidates."""
    rows = {
        one.row: {"learning_rate": one.learning_rate, "at_end": one.at_end, "candidates": list(one.candidates)}
        for one in found
    }
    with folder.writing():
        write_json(folder.search, {"schema": SCHEMA, "rows": rows})


def _measured(record: dict[str, Any]) -> dict[str, Any]:
    after = record["metrics"]["after"] or {}
    n = after["tasks"][after["headline"]]["n"] if "headline" in after else None
    return {
        "accuracy": after.get("accuracy"),
        "n": n,
        "validation_loss": after.get("validation_loss"),
        "last_tenth_loss": record["training"]["last_tenth_loss"],
    }


def _order(one: dict[str, Any]) -> tuple[float, ...]:
    def or_worst(value: float | None) -> float:
        return math.inf if value is None else value

    accuracy = one["accuracy"] if one["accuracy"] is not None else -math.inf
    return -accuracy, or_worst(one["validation_loss"]), or_worst(one["last_tenth_loss"]), one["learning_rate"]
