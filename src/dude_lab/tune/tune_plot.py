"""The picture of a tuning: training loss at every rung, and the metric of complete runs, against the learning rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plot_style import DASHES, TEXT_COLOR, log_axis, method_style, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .ranking import Ranking
    from .tuning import Tuner


def draw(tuner: Tuner, ranking: Ranking, *paths: Path) -> None:
    """Draw a tuning into files; their suffixes choose the formats.

    One line for each method, rank and rung; a later rung is darker. A circle marks the choice.
    """
    evaluated = any(row.value is not None for row in ranking.rows)
    with picture(*paths, size=(11.0 if evaluated else 6.5, 4.2)) as figure:
        panels = figure.subplots(1, 2 if evaluated else 1, squeeze=False)[0]
        _losses(panels[0], tuner, ranking)
        if evaluated:
            _values(panels[1], tuner, ranking)
        for axes in panels:
            axes.set_xscale("log")
            log_axis(axes.xaxis)
            axes.set_xlabel("learning rate")
        figure.legend(*_legend(tuner), loc="outside lower center", ncols=6, frameon=False)


def _losses(axes: Axes, tuner: Tuner, ranking: Ranking) -> None:
    done = tuner.rungs
    drawn: list[float] = []
    for number, (steps, names) in enumerate(done, 1):
        for row in tuner.grid.rows:
            points = sorted(
                (one.learning_rate, loss)
                for one in tuner.candidates
                if one.row is row and one.name in names and (loss := tuner.loss(one, steps)) < math.inf
            )
            drawn += [loss for _, loss in points]
            axes.plot(*zip(*points, strict=True) if points else ((), ()), alpha=0.25 + 0.75 * number / len(done),
                      markersize=3 + 3 * number / len(done), **_look(tuner, row))  # fmt: skip
    best = ranking.rows[0]
    if best.loss < math.inf:
        _mark(axes, best.candidate.learning_rate, best.loss)
    if drawn and max(drawn) > 4 * min(drawn):  # rates that diverge would flatten the others
        axes.set_yscale("log")
        log_axis(axes.yaxis, 1, 2, 5)
    rungs = ", ".join(f"{steps:,}" for steps, _ in done)
    axes.set_title(f"Training loss at the rungs (steps {rungs}; later ones darker)")


def _values(axes: Axes, tuner: Tuner, ranking: Ranking) -> None:
    scale = 100 if ranking.rows[0].interval is not None else 1
    for row in tuner.grid.rows:
        points = sorted(
            (one.candidate.learning_rate, scale * one.value, one.interval)
            for one in ranking.rows
            if one.candidate.row is row and one.value is not None
        )
        if not points:
            continue
        rates, values = [rate for rate, *_ in points], [value for _, value, _ in points]
        axes.plot(rates, values, markersize=6, **_look(tuner, row))
        for rate, _, interval in points:
            if interval is not None:
                axes.plot([rate, rate], [scale * interval.low, scale * interval.high], color=_look(tuner, row)["color"],
                          linewidth=1, alpha=0.6)  # fmt: skip
    best = ranking.rows[0]
    if best.value is not None:
        _mark(axes, best.candidate.learning_rate, scale * best.value)
    axes.set_title("Accuracy on validation of complete runs (%)" if scale > 1 else "Validation loss of complete runs")


def _look(tuner: Tuner, row: Any) -> dict[str, Any]:
    style = method_style(row.method.name)
    ranks = sorted({one.r for one in tuner.grid.rows if one.r is not None}, reverse=True)
    dash = DASHES[ranks.index(row.r) % len(DASHES)] if row.r is not None else "-"
    return {"color": style.color, "marker": style.marker, "linestyle": dash, "linewidth": 1.4}


def _mark(axes: Axes, rate: float, value: float) -> None:
    axes.plot([rate], [value], marker="o", markersize=13, markerfacecolor="none", color=TEXT_COLOR, linestyle="none")


def _legend(tuner: Tuner) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    rows = tuner.grid.rows
    several = len({row.r for row in rows if row.r is not None}) > 1
    labels = [f"{row.label} r={row.r}" if several and row.r is not None else row.label for row in rows]
    return [Line2D([], [], **_look(tuner, row)) for row in rows], labels
