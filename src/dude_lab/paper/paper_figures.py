"""The paper's figures, drawn from the runs: training curves, accuracy against rank, and accuracy by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compare.results import RowResult, seed_series
from ..plot_style import log_axis, loss_axis, method_style, picture
from ..stats.smoothing import Series
from .experiments import Column
from .paper_tables import ComparisonResult, interval, validation_losses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZES = {"curves": (13.0, 4.0), "ranks": (10.5, 4.0), "seeds": (8.0, 4.0)}


def draw(kind: str, comparison: ComparisonResult, *paths: Path) -> bool:
    """Draw a comparison into files, whose suffixes choose the formats.

    Return False if there is nothing to draw: no run is finished or, against the rank, those of one rank only.
    """
    rows = _rows(comparison)
    if not rows or (kind == "ranks" and len({row.r for row in rows} - {None}) < 2):
        return False
    with picture(*paths, size=SIZES[kind]) as figure:
        {"curves": _curves, "ranks": _ranks, "seeds": _seeds}[kind](figure, comparison)
    return True


def _look(row: RowResult) -> dict[str, Any]:
    style = method_style(row.method)
    return {"color": style.color, "marker": style.marker}


def _rows(comparison: ComparisonResult) -> list[RowResult]:
    return [row for row in comparison.results.rows if row.runs]


def _curves(figure: Figure, comparison: ComparisonResult) -> None:
    loss, norm, right = figure.subplots(1, 3)
    for row in _rows(comparison):
        for axes, key in ((loss, "loss"), (norm, "grad_norm")):
            if (series := seed_series(row, key)) is not None:
                _line(axes, row, series.smoothed(from_start=key == "loss"))
    _accuracies(right, comparison)
    loss.set_title("(a) Training loss (nats per token, smoothed)")
    norm.set_title("(b) Gradient norm, smoothed")
    norm.set_yscale("log")
    log_axis(norm.yaxis, 1, 2, 5)
    for axes in (loss, norm):
        axes.set_xlabel("step")
    loss_axis(loss)
    figure.suptitle(f"{comparison.model} on {comparison.trained_on}", x=0.01, ha="left", fontweight="bold")
    if loss.get_legend_handles_labels()[0]:
        figure.legend(
            *loss.get_legend_handles_labels(), loc="outside lower center", ncols=len(_rows(comparison)), frameon=False
        )


def _accuracies(axes: Axes, comparison: ComparisonResult) -> None:
    """Draw the accuracy against the step; if it was measured at the end only, the validation losses, if there are."""
    rows = _rows(comparison)
    found = {row.name: series for row in rows if (series := seed_series(row, "accuracy")) is not None}
    ends = {row.name: losses for row in rows if (losses := validation_losses(row.runs))}
    if ends and all(len(series.steps) == 1 for series in found.values()):
        for place, row in enumerate(rows):
            values, look = ends.get(row.name, []), _look(row)
            axes.plot([place] * len(values), values, linestyle="", markersize=5.5, mfc="white", **look)
            if values:
                axes.plot([place - 0.25, place + 0.25], [fmean(values)] * 2, color=look["color"], linewidth=1.8)
        axes.set_xticks(range(len(rows)), [row.label.replace(" ", "\n") for row in rows])
        axes.set_xlim(-0.6, len(rows) - 0.4)
        axes.set_title("(c) Validation loss at the end (nats per token)")
        axes.set_xlabel("marker: a seed; line: their mean")
        return
    for row in rows:
        if row.name in found:
            series = found[row.name]
            _line(axes, row, Series(series.steps, 100 * series.values))
    axes.set_title(f"(c) Accuracy on {comparison.results.headline} (%)")
    axes.set_xlabel("step")


def _line(axes: Axes, row: RowResult, series: Series) -> None:
    """Draw the mean over the seeds, and a band from the lowest to the highest."""
    low, high, look = series.values.min(axis=0), series.values.max(axis=0), _look(row)
    every = max(1, len(series.steps) // 8)
    axes.plot(series.steps, series.mean, label=row.label, linewidth=1.6, markersize=4.5, markevery=every, **look)
    if len(series.values) > 1:
        axes.fill_between(series.steps, low, high, color=look["color"], alpha=0.1, linewidth=0)


def _ranks(figure: Figure, comparison: ComparisonResult) -> None:
    means = [one for one in comparison.spec.columns if one.key in ("avg", "weighted_avg")]
    wanted = _different(comparison, means or list(comparison.spec.columns))
    ranks = sorted({row.r for row in _rows(comparison) if row.r is not None})
    figure.set_size_inches(SIZES["ranks"][0] * (0.62 if len(wanted) == 1 else 1), SIZES["ranks"][1])
    for letter, axes, column in zip("ab", figure.subplots(1, len(wanted), squeeze=False)[0], wanted, strict=False):
        for k, method in enumerate(dict.fromkeys(row.method for row in _rows(comparison))):
            _against_rank(
                axes, [row for row in _rows(comparison) if row.method == method], column, ranks, k, comparison
            )
        part = f"({letter}) " if len(wanted) > 1 else ""
        axes.set_title(
            f"{part}{column.title} accuracy (%), 95% interval: {comparison.model} on {comparison.trained_on}"
        )
        axes.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
        axes.set_xlabel("rank r" + ("; hollow: the paper's" if comparison.paper else ""))
    # Beside the curves: intervals fill the corners of the axes.
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8.5)


def _different(comparison: ComparisonResult, columns: list[Column]) -> list[Column]:
    """Return the columns with those of equal values as one: of sets of one size the weighted mean is the mean.

    Columns with values of the paper stay.
    """
    if comparison.paper and comparison.spec.published:
        return columns
    found: dict[tuple[float, ...], Column] = {}
    for column in columns:
        values = [interval(row.runs, column, comparison.prefix) for row in _rows(comparison)]
        key = tuple(round(part, 12) for one in values if one for part in (one.estimate, one.low, one.high))
        same = found.get(key)
        title = f"{same.title} and {column.title.lower()}" if same else column.title
        found[key] = replace(same or column, title=title)
    return list(found.values())


def _against_rank(
    axes: Axes, rows: Sequence[RowResult], column: Column, ranks: list[int], k: int, comparison: ComparisonResult
) -> None:
    from . import published

    found = [(row, one) for row in rows if row.r is not None and (one := interval(row.runs, column, comparison.prefix))]
    if not found:
        return
    look = _look(rows[0])
    places = [ranks.index(row.r) + 0.06 * (k - 1.5) for row, _ in found]  # type: ignore[arg-type]
    mid = [100 * one.estimate for _, one in found]
    ends = [[100 * (one.estimate - one.low) for _, one in found], [100 * (one.high - one.estimate) for _, one in found]]
    axes.errorbar(places, mid, ends, label=rows[0].label, linewidth=1.4, markersize=5, elinewidth=1, **look)
    if comparison.paper and comparison.spec.published:
        for place, (row, _) in zip(places, found, strict=True):
            paper = published.values(comparison.spec.published, row.method, row.r, comparison.paper).get(
                comparison.paper, {}
            )
            if column.key in paper:
                axes.plot([place], [paper[column.key]], mfc="none", markersize=6, linestyle="", **look)


def _seeds(figure: Figure, comparison: ComparisonResult) -> None:
    axes = figure.subplots()
    rows = _rows(comparison)
    seeds = list(dict.fromkeys(run.seed for row in rows for run in row.runs))
    for k, row in enumerate(rows):
        look, right = _look(row), {run.seed: run.accuracy for run in row.runs if run.accuracy is not None}
        if not right:
            continue
        shift = 0.08 * (k - (len(rows) - 1) / 2)
        places = [seeds.index(seed) + shift for seed in right]
        axes.plot(
            places, [100 * value for value in right.values()], linestyle="", markersize=7, label=row.label, **look
        )
        mean = 100 * float(np.mean(list(right.values())))
        axes.axhline(mean, color=look["color"], linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.8)
    axes.set_xticks(range(len(seeds)), [str(seed) for seed in seeds])
    axes.set_xlabel("seed (dashed: mean over the seeds)")
    axes.set_title(f"Accuracy on {comparison.results.headline} after {comparison.trained_on} (%)")
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
