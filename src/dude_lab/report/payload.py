"""The data that the page draws: styles, accuracies, costs and curves of each row."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compare.comparison_plot import looks
from ..compare.outcome import accuracy
from ..compare.results import Results, RowResult, seed_series
from ..plot_style import METHOD_STYLES, marker_path
from ..stats.significance import HIGHER, LOWER
from ..stats.smoothing import Series
from ..text import percent

DUDE = ("dude", "dude_a", "dude_b")
POINTS = 400  # of a curve; a longer one is thinned evenly
CURVES = (
    ("loss", "Training loss (nats per token)"),
    ("grad_norm", "Gradient norm before clipping"),
    ("grad_norm_A", "Gradient norm of A"),
    ("grad_norm_B", "Gradient norm of B"),
    ("grad_norm_m", "Gradient norm of m"),
)


def make_payload(results: Results, table: dict[str, Any]) -> dict[str, Any]:
    """Return what the drawings need, as JSON values.

    Args:
        results: the runs.
        table: `make_table` of them; accuracies and costs are taken from it as they are.
    """
    base = next((row for row in table["rows"] if row["method"] is None), None)
    lines = [row for row in table["rows"] if row["method"] is not None]
    look_of = looks([row for row in results.rows if row.runs])
    rows = []
    for row, line in zip(results.rows, lines, strict=True):
        if not row.runs:
            continue
        look = look_of[row.name]
        cost = {
            "seconds": line["train_seconds"],
            "memory": line["peak_memory_bytes"],
            "parameters": line["trainable_parameters"],
        }
        rows.append(
            {
                "name": row.name,
                "r": row.r,
                "method": row.method if row.method in METHOD_STYLES else "other",
                "marker": marker_path(look.marker),
                "dash": look.dash,
                "accuracy": line["accuracy"],
                "seeds": line["seeds"],
                "accuracies": line["accuracies"],
                "cost": cost,
            }
        )
    finished = [row for row in results.rows if row.runs]
    start = base["accuracy"]["value"] if base is not None and base["accuracy"] else None
    return {
        "headline": results.headline,
        "rows": rows,
        "base": base["accuracy"] if base is not None else None,
        "curves": _losses(finished) + _validation(finished) + _accuracies(finished, results.headline, start),
    }


def opening_pair(results: Results, pairs: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Return the names of DuDe's best row and of the best row of another method that it is compared with.

    Args:
        results: the runs.
        pairs: those of `answer_table.make_answers`.

    Returns:
        The pair that the page opens on; the first one without DuDe, None without any.
    """
    found = {row.name: (row.method, mean.estimate) for row in results.rows if (mean := accuracy(row.runs)) is not None}
    known = [(pair["one"], pair["other"]) for pair in pairs]
    mine = [name for name, (method, _) in found.items() if method == "dude"]
    for one in sorted(mine, key=lambda name: -found[name][1]):
        others = [b if a == one else a for a, b in known if one in (a, b)]
        others = [name for name in others if name in found and found[name][0] not in DUDE]
        if others:
            return one, max(others, key=lambda name: found[name][1])
    return known[0] if known else None


def opening_sentence(pair: tuple[str, str], differences: list[dict[str, Any]]) -> str:
    """Return the difference of the pair in one sentence; empty if the table does not compare it."""
    for one in differences:
        if pair in ((one["row"], one["minus"]), (one["minus"], one["row"])):
            turned = pair != (one["row"], one["minus"])
            value, low, high = (one[key] for key in ("value", "low", "high"))
            value, low, high = (-value, -high, -low) if turned else (value, low, high)
            word = {HIGHER: LOWER, LOWER: HIGHER}.get(one["word"], one["word"]) if turned else one["word"]
            return (
                f"{pair[0]} against {pair[1]}, the best other method: {percent(value, '+')} points, 95% interval "
                f"{percent(low, '+')} to {percent(high, '+')}: {word}."
            )
    return ""


def _losses(rows: list[RowResult]) -> list[dict[str, Any]]:
    found = []
    for key, title in CURVES:
        lines = [_line(seed_series(row, key), from_start=key == "loss") for row in rows]
        if any(lines):
            found.append({"key": key, "title": title, "log": True, "share": False, "lines": lines})
    return found


def _validation(rows: list[RowResult]) -> list[dict[str, Any]]:
    """Return validation loss against the step, if it was computed during training and not only at its ends."""
    series = [seed_series(row, "eval_loss") for row in rows]
    if not any(one is not None and len(one.steps) > 2 for one in series):
        return []
    drawn = [_line(one, smooth=False) for one in series]
    title = "Validation loss (nats per token)"
    return [{"key": "eval_loss", "title": title, "log": True, "share": False, "lines": drawn}]


def _accuracies(rows: list[RowResult], headline: str | None, start: float | None) -> list[dict[str, Any]]:
    """Return accuracy against the step, if it was measured during training and not only at the end."""
    lines = []
    for row in rows:
        series = seed_series(row, "accuracy")
        if series is not None and start is not None and series.steps[0] > 0:
            begin = np.full((len(series.values), 1), start)
            series = Series((0, *series.steps), np.hstack([begin, series.values]))
        lines.append(series)
    if not any(series is not None and len(series.steps) > 2 for series in lines):
        return []
    drawn = [_line(series, smooth=False) for series in lines]
    return [{"key": "accuracy", "title": f"Accuracy on {headline} (%)", "log": False, "share": True, "lines": drawn}]


def _line(series: Series | None, *, smooth: bool = True, from_start: bool = False) -> dict[str, Any] | None:
    """Return the mean over the seeds, raw and smoothed (None where the window does not fit), and their range.

    With `from_start` the smoothed one begins at the first step, with a smaller window.
    """
    if series is None:
        return None
    steps = np.array(series.steps)
    shown = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))
    line: dict[str, Any] = {"steps": steps[shown].tolist(), "raw": _brief(series.mean[shown])}
    even = series.smoothed(from_start=from_start) if smooth else series
    if len(even.steps) < len(steps):
        first = series.steps.index(even.steps[0])
        inside = [k - first if first <= k < first + len(even.steps) else None for k in shown.tolist()]
        line["smooth"] = [None if k is None else _brief(even.mean[[k]])[0] for k in inside]
    if len(series.values) > 1:
        line["low"] = _brief(series.values.min(axis=0)[shown])
        line["high"] = _brief(series.values.max(axis=0)[shown])
    return line


def _brief(values: Any) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
