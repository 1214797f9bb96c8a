"""The figure of a comparison: loss against step, and accuracy with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from ..plot_style import BASE_COLOR, DASHES, TEXT_COLOR, Marker, loss_axis, method_style, picture
from ..text import percent
from ..training.record import source_of
from .outcome import accuracy
from .results import Results, RowResult, seed_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BANDS = 4  # more would cover each other
LABEL_GAP = 0.055  # of the axes' height, between two direct labels of one line
LABEL_WIDTH = 32  # characters; a longer label has several lines
ROOM = 16  # characters of a label that the usual width has room for, beside the lines and on the axis
CHARACTER = 0.067  # inches, on average, at 9 points


@dataclass(frozen=True)
class Look:
    """Style of a row: its method's colour and marker, and the index of its dash pattern."""

    color: str
    marker: Marker
    dash: int


def draw(results: Results, *paths: Path) -> None:
    """Draw a comparison into files; their suffixes choose the formats.

    Without an accuracy, validation losses are drawn if they were computed during training.

    Each method has its colour and marker, each rank its dash pattern. Losses are smoothed means over the seeds on a
    logarithmic axis, from the first step, with a band from the lowest to the highest seed if there are few methods.
    Accuracies are drawn with the intervals of the table, the model before training as a dashed line. The title names
    model and training data.
    """
    rows = [row for row in results.rows if row.runs]
    labels = [label.split("\n") for label in _names(rows).values()]
    longest = max((len(line) for label in labels for line in label), default=0)
    height = max(3.8, 1.3 + 0.3 * len(rows), 1.3 + 0.17 * sum(len(label) + 0.5 for label in labels))
    width = 11.5 + 2 * CHARACTER * max(0, longest - ROOM)
    with picture(*paths, size=(width, height)) as figure:
        if results.headline is not None:
            left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
            _accuracies(right, results, rows)
        elif any(_trajectory(row) for row in rows):
            left, right = figure.subplots(1, 2)
            _losses(right, rows, "eval_loss")
        else:
            left = figure.subplots()
        _losses(left, rows)
        if title := _title(rows):
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")


def _title(rows: Sequence[RowResult]) -> str:
    """Return the models and training data of the runs; empty if there are more than two."""
    sources = dict.fromkeys(source_of(run.record) for row in rows for run in row.runs)
    return ", ".join(sources) if len(sources) <= 2 else ""


def looks(rows: Sequence[RowResult]) -> dict[str, Look]:
    """Return each row's look; rows of one method differ by the dash pattern, one for each rank and label."""
    ranks = sorted({row.r for row in rows if row.r is not None}, reverse=True)
    labels: dict[str, list[str]] = {}
    found = {}
    for row in rows:
        variants = labels.setdefault(row.method, [])
        if row.label not in variants:
            variants.append(row.label)
        dash = ranks.index(row.r) if row.r is not None else 0
        dash += variants.index(row.label) * max(1, len(ranks))
        style = method_style(row.method)
        found[row.name] = Look(style.color, style.marker, dash % len(DASHES))
    return found


def _names(rows: Sequence[RowResult]) -> dict[str, str]:
    """Return the labels of the rows, with ranks if there are several; long ones in several lines."""
    several = len({row.r for row in rows if row.r is not None}) > 1
    names = {row.name: row.name if several else row.label for row in rows}
    return {key: fill(name, LABEL_WIDTH, break_long_words=False) for key, name in names.items()}


def _trajectory(row: RowResult) -> bool:
    """Return whether the validation loss was computed during training and not only at its ends."""
    series = seed_series(row, "eval_loss")
    return series is not None and len(series.steps) > 2


def _losses(axes: Axes, rows: Sequence[RowResult], key: str = "loss") -> None:
    look_of, names = looks(rows), _names(rows)
    ends: list[tuple[int, float, str, str]] = []
    last = 0
    for row in rows:
        if (found := seed_series(row, key)) is None:
            continue
        if key == "loss":
            found = found.smoothed(from_start=True)
        steps, mean, look = found.steps, found.mean, look_of[row.name]
        color = look.color
        if len(found.values) > 1 and len(rows) <= BANDS:
            low, high = found.values.min(axis=0), found.values.max(axis=0)
            axes.fill_between(steps, low, high, color=color, alpha=0.12, linewidth=0)
        axes.plot(
            steps, mean, color=color, linestyle=DASHES[look.dash], linewidth=1.7,
            marker=look.marker, markersize=5, markevery=max(1, len(steps) // 8),
        )  # fmt: skip
        ends.append((steps[-1], float(mean[-1]), names[row.name], color))
        last = max(last, steps[-1])
    axes.set_title(f"{'Training' if key == 'loss' else 'Validation'} loss (nats per token)")
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    if ends:
        loss_axis(axes)
        axes.set_xlim(0, last)
        _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: list[tuple[int, float, str, str]]) -> None:
    """Label the end of each line; labels that would overlap are moved apart."""
    ordered = sorted(ends, key=lambda end: end[1:])
    drawn = axes.transLimits.transform(axes.transScale.transform([end[:2] for end in ordered]))
    wanted = np.asarray(drawn)[:, 1]
    lines = max((name.count("\n") + 1 for _, _, name, _ in ordered), default=1)
    places = spread(wanted, min(LABEL_GAP * lines, 0.96 / max(len(ordered), 1)))
    for (x, value, name, color), place in zip(ordered, places, strict=True):
        axes.annotate(
            name,
            xy=(x, value),
            xytext=(1.06, place),
            textcoords="axes fraction",
            color=TEXT_COLOR,
            va="center",
            fontsize=9,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.7,
                "shrinkA": 2,
                "shrinkB": 1,
                "relpos": (0, 0.5),
            },
        )


def spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Return positions near `wanted` (ascending) in order, at least `gap` apart, within 0 and 1 if possible."""
    places = np.clip(wanted, 0, 1).astype(float)
    for _ in range(200):
        moved = False
        for k in range(len(places) - 1):
            short = gap - (places[k + 1] - places[k])
            if short > 1e-9:
                places[k] -= short / 2
                places[k + 1] += short / 2
                moved = True
        if len(places):
            places += max(0.0, -places[0]) - max(0.0, places[-1] - 1)
        if not moved:
            break
    return places


def _accuracies(axes: Axes, results: Results, rows: Sequence[RowResult]) -> None:
    look_of, names = looks(rows), _names(rows)
    shown = []
    for place, row in enumerate(reversed(rows)):
        found = accuracy(row.runs)
        shown.append(names[row.name])
        if found is None:
            continue
        color = look_of[row.name].color
        mid, low, high = 100 * found.estimate, 100 * max(0.0, found.low), 100 * min(1.0, found.high)
        axes.plot([low, high], [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
        single = [100 * run.accuracy for run in row.runs if run.accuracy is not None]
        if len(single) > 1:
            axes.plot(single, [place] * len(single), "|", color=color, markersize=9, alpha=0.55)
        axes.plot([mid], [place], marker=look_of[row.name].marker, linestyle="", color=color, markersize=6.5)
        end = (max([high, *single]), place)
        axes.annotate(percent(found.estimate), end, (6, 0), textcoords="offset points", va="center", color=TEXT_COLOR)
    base = accuracy([results.base]) if results.base is not None else None
    if base is not None:
        value = 100 * base.estimate
        axes.axvline(value, color=BASE_COLOR, linewidth=1, linestyle=(0, (4, 2)))
        axes.annotate(
            f"base {percent(base.estimate)}", (value, len(rows) - 0.45), (3, 0), textcoords="offset points",
            color=BASE_COLOR, fontsize=8.5, va="center",
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), shown)
    axes.set_ylim(-0.6, len(rows) - 0.2)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    seeds = {len(row.runs) for row in rows}
    over = "seeds (ticks)" if seeds - {1} else "questions, one seed"
    axes.set_title(f"Accuracy on {results.headline} (%)")
    axes.set_xlabel(f"accuracy (%), 95% interval over {over}")
