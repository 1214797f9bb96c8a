"""The measurements as a picture: ratios of DuDe and the baselines, each with its target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..plot_style import BASE_COLOR, MethodStyle, log_axis, method_style, picture
from .bench_results import DORA, DUDE, FROZEN, HAND, Result, Spread, grouped

STYLES = {
    FROZEN: MethodStyle(BASE_COLOR, "|"),
    DORA: method_style("dora"),
    HAND: method_style("lora"),
    DUDE: method_style("dude"),
}
LEFT_OUT = ("svd", "import")  # figures that are not ratios near one


def draw(rows: list[Result], path: Path, title: str) -> bool:
    """Draw each ratio with its quartiles and its target; return False if there is no ratio."""
    ratios = [row for row in rows if row.measured is not None and row.part not in LEFT_OUT]
    shown = [row for group in grouped(ratios).values() for row in group]
    if not shown:
        return False
    places = _places(shown)
    bottom = max(places) + 1
    with picture(path, size=(9, 1.3 + 0.24 * bottom)) as figure:
        axes = figure.subplots()
        axes.tick_params(labelsize=8)
        for name, style in STYLES.items():
            _points(axes, shown, places, name, style)
        _targets(axes, shown, places)
        axes.axvline(1.0, color="black", lw=0.6, ls=":")
        axes.set_xscale("log")
        axes.set_yticks(places, [row.what for row in shown])
        axes.set_ylim(bottom - 0.3, -1.4)
        axes.set_axisbelow(True)
        _ticks(axes)
        axes.set_xlabel(
            "ratio to PEFT LoRA unless stated; black line: target, the arrow points to the better side", fontsize=8
        )
        figure.legend(loc="outside lower center", ncols=5, fontsize=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=7.5)
    return True


def _places(rows: list[Result]) -> list[float]:
    """Return the height of each row, with space above each group for its name."""
    places, at, group = [], 0.0, None
    for row in rows:
        if group is not None and group != (row.part, row.group):
            at += 1.6
        places.append(at)
        at, group = at + 1, (row.part, row.group)
    return places


def _figure_of(row: Result, name: str) -> Spread | None:
    return row.measured if name == DUDE else row.others.get(name)


def _points(axes: Any, rows: list[Result], places: list[float], name: str, style: MethodStyle) -> None:
    found = [(place, value) for row, place in zip(rows, places, strict=True) if (value := _figure_of(row, name))]
    if not found:
        return
    at = [place for place, _ in found]
    axes.hlines(at, [v.low for _, v in found], [v.high for _, v in found], color=style.color, lw=1.2)
    look = {"color": style.color, "marker": style.marker, "ms": 7 if style.marker == "|" else 4.5}
    axes.plot([v.median for _, v in found], at, linestyle="", mew=1.2, label=name, zorder=3, **look)


def _targets(axes: Any, rows: list[Result], places: list[float]) -> None:
    """Draw the target of each row as a short line, and the name of a group above its first row."""
    group = None
    for row, place in zip(rows, places, strict=True):
        if row.target is not None:
            axes.vlines(row.target, place - 0.42, place + 0.42, color="black", lw=1.4, zorder=2)
            tip = (10 if row.higher_is_better else -10, 0)
            arrow = {"arrowstyle": "<|-", "lw": 0.8, "mutation_scale": 6}
            axes.annotate("", (row.target, place - 0.36), tip, textcoords="offset points", arrowprops=arrow)
        if group != (row.part, row.group):
            words = {"xycoords": axes.get_yaxis_transform(), "fontsize": 8, "fontweight": "bold"}
            axes.annotate(f"{row.part}: {row.group}", (0.0, place - 0.75), **words)
        group = (row.part, row.group)


def _ticks(axes: Any) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    log_axis(axes.xaxis)
    axes.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
