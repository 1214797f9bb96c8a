"""The measurements as a picture: what is a ratio to a rival, DuDe beside the others, each with its reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..training.run_plot import BLUE, GREEN, GREY, ORANGE, STYLE
from .bench_results import DORA, DUDE, FROZEN, HAND, Row, Spread

MARKS = ((FROZEN, GREY, "|"), (DORA, ORANGE, "s"), (HAND, GREEN, "^"), (DUDE, BLUE, "o"))
LEFT_OUT = ("svd", "import")  # their figures are no ratios near one


def draw(rows: list[Row], path: Path, title: str) -> bool:
    """A line a row: medians with quartiles, and the reach. Returns whether there was anything to draw."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.measured is not None and row.part not in LEFT_OUT]
    if not shown:
        return False
    places = _places(shown)
    bottom = max(places) + 1
    with rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(9, 1.3 + 0.24 * bottom), layout="constrained")
        axes = figure.subplots()
        for name, color, marker in MARKS:
            _points(axes, shown, places, name, color, marker)
        _reaches(axes, shown, places)
        axes.axvline(1.0, color="black", lw=0.6, ls=":")
        axes.set_xscale("log")
        axes.set_yticks(places, [row.what for row in shown])
        axes.set_ylim(bottom - 0.3, -1.4)
        axes.set_axisbelow(True)
        _ticks(axes)
        axes.set_xlabel("ratio; the black line is the reach, the arrow the good side of it")
        figure.legend(loc="outside lower center", ncols=5, fontsize=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=7.5)
        figure.savefig(path, dpi=150)
    return True


def _places(rows: list[Row]) -> list[float]:
    """A line for each row, and a free one above each group for its name."""
    places, at, group = [], 0.0, None
    for row in rows:
        if group is not None and group != (row.part, row.group):
            at += 1.6
        places.append(at)
        at, group = at + 1, (row.part, row.group)
    return places


def _figure_of(row: Row, name: str) -> Spread | None:
    return row.measured if name == DUDE else row.others.get(name)


def _points(axes: Any, rows: list[Row], places: list[float], name: str, color: str, marker: str) -> None:
    found = [(place, value) for row, place in zip(rows, places, strict=True) if (value := _figure_of(row, name))]
    if not found:
        return
    at = [place for place, _ in found]
    axes.hlines(at, [v.low for _, v in found], [v.high for _, v in found], color=color, lw=1.2)
    size = 7 if marker == "|" else 4.5
    axes.plot([v.median for _, v in found], at, marker, color=color, ms=size, mew=1.2, label=name, zorder=3)


def _reaches(axes: Any, rows: list[Row], places: list[float]) -> None:
    """The reach of each row as a short line; the group's name above its first row."""
    group = None
    for row, place in zip(rows, places, strict=True):
        if row.reach is not None:
            axes.vlines(row.reach, place - 0.42, place + 0.42, color="black", lw=1.4, zorder=2)
            tip = (10 if row.higher_is_better else -10, 0)
            arrow = {"arrowstyle": "<|-", "lw": 0.8, "mutation_scale": 6}
            axes.annotate("", (row.reach, place - 0.36), tip, textcoords="offset points", arrowprops=arrow)
        if group != (row.part, row.group):
            words = {"xycoords": axes.get_yaxis_transform(), "fontsize": 8, "fontweight": "bold"}
            axes.annotate(f"{row.part}: {row.group}", (0.0, place - 0.75), **words)
        group = (row.part, row.group)


def _ticks(axes: Any) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axes.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
