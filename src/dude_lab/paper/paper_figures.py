"""The paper's figures, drawn from the runs: along the training, against the rank, and by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compare.comparison_plot import COLORS, STYLE, save
from ..compare.results import RowResult
from ..compare.run_store import Run
from .claims import losses
from .experiments import Column
from .paper_tables import PartResult, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORDER = ("full", "lora", "dora", "pissa", "dude", "dude_a", "dude_b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw(kind: str, part: PartResult, *paths: Path) -> bool:
    """Draw a part into files of the kinds that their names say; False, and nothing written, where nothing has run."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if not any(row.runs for row in part.results.rows):
        return False
    with rc_context(STYLE):
        figure = Figure(layout="constrained")
        {"curves": _curves, "ranks": _ranks, "seeds": _seeds}[kind](figure, part)
        save(figure, *paths)
    return True


def _look(row: RowResult) -> dict[str, Any]:
    place = ORDER.index(row.method) if row.method in ORDER else 0
    return {"color": "#000000" if row.method == "full" else COLORS[place - 1], "marker": MARKERS[place]}


def _rows(part: PartResult) -> list[RowResult]:
    return [row for row in part.results.rows if row.runs]


def _curves(figure: Figure, part: PartResult) -> None:
    figure.set_size_inches(13, 4)
    loss, norm, right = figure.subplots(1, 3)
    for row in _rows(part):
        _line(loss, row, losses)
        _line(norm, row, _norms)
        _line(right, row, _accuracies, marker=True)
    loss.set_title("(a) Training loss (nats per token, smoothed)", loc="left", fontsize=10)
    norm.set_title("(b) Gradient norm, smoothed", loc="left", fontsize=10)
    norm.set_yscale("log")
    right.set_title(f"(c) Accuracy on {part.results.headline} (%)", loc="left", fontsize=10)
    for axes in (loss, norm, right):
        axes.set_xlabel("step")
    _settle(loss)
    if loss.get_legend_handles_labels()[0]:
        figure.legend(
            *loss.get_legend_handles_labels(), loc="outside lower center", ncols=len(_rows(part)), frameon=False
        )


def _line(axes: Axes, row: RowResult, of: Callable[[Run], dict[int, float]], *, marker: bool = False) -> None:
    """Mean over the seeds, and a band from the lowest to the highest."""
    series = [found for run in row.runs if (found := of(run))]
    steps = sorted(set.intersection(*(set(one) for one in series))) if series else []
    if not steps:
        return
    table = np.array([[one[step] for step in steps] for one in series])
    look = _look(row)
    axes.plot(
        steps, table.mean(axis=0), color=look["color"], label=row.label, linewidth=1.6,
        marker=look["marker"] if marker else None, markersize=4.5,
    )  # fmt: skip
    if len(table) > 1:
        axes.fill_between(steps, table.min(axis=0), table.max(axis=0), color=look["color"], alpha=0.1, linewidth=0)


def _settle(axes: Axes) -> None:
    """Leave out the height of the first steps, which presses the rest flat."""
    settled = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    settled = [values[len(values) // 10 :] for values in settled if len(values)]
    if settled:
        low, high = min(v.min() for v in settled), max(v.max() for v in settled)
        room = 0.06 * (high - low or 1.0)
        axes.set_ylim(low - room, high + room)


def _norms(run: Run) -> dict[int, float]:
    from ..training.run_plot import smooth

    found = {one["step"]: one["grad_norm"] for one in run.curves() if one.get("grad_norm")}
    steps = sorted(found)
    values = smooth([found[step] for step in steps], max(1, len(steps) // 12)) if steps else []
    return dict(zip(steps, (float(x) for x in values), strict=True))


def _accuracies(run: Run) -> dict[int, float]:
    return {one["step"]: 100 * one["accuracy"] for one in run.curves() if one.get("accuracy") is not None}


def _ranks(figure: Figure, part: PartResult) -> None:
    figure.set_size_inches(10.5, 4)
    wanted = [column for column in part.selection.columns if column.key in ("avg", "weighted_avg")]
    ranks = sorted({row.r for row in _rows(part) if row.r is not None})
    for letter, axes, column in zip("ab", figure.subplots(1, 2, squeeze=False)[0], wanted, strict=True):
        for k, method in enumerate(dict.fromkeys(row.method for row in _rows(part))):
            _against_rank(axes, [row for row in _rows(part) if row.method == method], column, ranks, k, part)
        axes.set_title(f"({letter}) {column.title} accuracy (%), 95% interval", loc="left", fontsize=10)
        axes.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
        axes.set_xlabel("rank r" + ("; hollow: the paper's" if part.paper else ""))
        axes.legend(frameon=False, fontsize=8.5)


def _against_rank(
    axes: Axes, rows: Sequence[RowResult], column: Column, ranks: list[int], k: int, part: PartResult
) -> None:
    from . import published

    found = [(row, one) for row in rows if row.r is not None and (one := interval(row.runs, column, part.prefix))]
    if not found:
        return
    look = _look(rows[0])
    places = [ranks.index(row.r) + 0.06 * (k - 1.5) for row, _ in found]  # type: ignore[arg-type]
    mid = [100 * one.estimate for _, one in found]
    ends = [[100 * (one.estimate - one.low) for _, one in found], [100 * (one.high - one.estimate) for _, one in found]]
    axes.errorbar(places, mid, ends, label=rows[0].label, linewidth=1.4, markersize=5, elinewidth=1, **look)
    if part.paper and part.selection.published:
        for place, (row, _) in zip(places, found, strict=True):
            told = published.values(part.selection.published, row.method, row.r, part.paper).get(part.paper, {})
            if column.key in told:
                axes.plot([place], [told[column.key]], mfc="none", markersize=6, linestyle="", **look)


def _seeds(figure: Figure, part: PartResult) -> None:
    figure.set_size_inches(8, 4)
    axes = figure.subplots()
    rows = _rows(part)
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
    axes.set_title(f"Accuracy on {part.results.headline} after {part.trained_on} (%)", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
