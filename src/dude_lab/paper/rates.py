"""What a wrong learning rate costs: validation accuracy at every learning rate of the searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compare.results import RowResult
from ..plot_style import log_axis, method_style, picture
from ..stats.intervals import Interval
from ..text import escape_markdown, percent
from .experiments import FOUR
from .paper_tables import ComparisonResult, text
from .verdict import Difference, Word

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

PAIRS = (("dude", "pissa"), ("dora", "lora"))  # with a magnitude, and the same initialisation without
COLUMNS = 4
PLATEAU = 0.01  # of accuracy below the best: the rates that are as good
ENTRY = 1.15  # inches of a legend's entry


def measured(row: RowResult) -> dict[float, float]:
    """Return learning rate -> validation accuracy of the row's search; empty without a search or its evaluation."""
    return {one["learning_rate"]: one["accuracy"] for one in row.candidates if one.get("accuracy") is not None}


def table(made: dict[str, Any], comparison: ComparisonResult) -> dict[str, Any]:
    """Return the table with each row's search added: `rates`, learning rate -> accuracy, and `asked`, its questions."""
    rows = []
    for one, row in zip(made["rows"], comparison.results.rows, strict=True):
        asked = next((found["n"] for found in row.candidates if found.get("n")), None)
        rates = {f"{rate:g}": value for rate, value in measured(row).items()}
        rows.append({**one, "rates": rates, "asked": asked})
    return {**made, "rows": rows}


def is_search(made: Mapping[str, Any]) -> bool:
    """Whether a table has the searches of its rows."""
    return any("rates" in row for row in made["rows"])


def markdown(made: dict[str, Any]) -> str:
    """Return the table: a column for each learning rate, accuracy on validation in %, the chosen rate in bold.

    Two more columns: the rates around the chosen one that are within a point of it, and the points that the next larger
    rate loses.
    """
    rates = sorted({rate for row in made["rows"] for rate in row["rates"]}, key=float)
    heads = ["method", "r", *(f"lr {rate}" for rate in rates), "within 1 point", "next rate", "n"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in made["rows"]:
        best = None if row["learning_rate"] is None else f"{row['learning_rate']:g}"
        cells = [percent(row["rates"].get(rate)) for rate in rates]
        cells = [f"**{cell}**" if rate == best else cell for rate, cell in zip(rates, cells, strict=True)]
        cells = [escape_markdown(row["label"]), text(row["r"]), *cells, *around(row["rates"], best)]
        lines.append("| " + " | ".join([*cells, text(row["asked"], "{:,}")]) + " |")
    return "\n".join(lines) + "\n"


def plateau(found: Mapping[str, float], best: str) -> tuple[str, str]:
    """Return the smallest and the largest rate of those next to each other, around `best`, within `PLATEAU` of it."""
    rates = sorted(found, key=float)
    good = [found[rate] >= found[best] - PLATEAU - 1e-9 for rate in rates]
    low = high = rates.index(best)
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(rates) and good[high + 1]:
        high += 1
    return rates[low], rates[high]


def around(found: Mapping[str, float], best: str | None) -> tuple[str, str]:
    """Return the cells of the plateau and of the next larger rate."""
    if best is None or best not in found:
        return text(None), text(None)
    low, high = plateau(found, best)
    above = [rate for rate in sorted(found, key=float) if float(rate) > float(best)]
    loss = found[above[0]] - found[best] if above else None
    return low if low == high else f"{low} to {high}", percent(loss, "+")


def forgiving(comparison: ComparisonResult) -> list[Difference]:
    """Compare searches at rates above the best of both rows: the mean difference, and how often it is positive."""
    out: list[Difference] = []
    if not comparison.searched:
        return out
    for with_magnitude, without in PAIRS:
        labels = {row.method: row.label for row in comparison.results.rows}
        if not {with_magnitude, without} <= set(labels):
            continue
        gaps = list(_gaps(comparison, with_magnitude, without))
        what = f"{labels[with_magnitude]} against {labels[without]} at rates above the best of both, mean"
        if not gaps:
            out.append(Difference(comparison.name, what, None))
            continue
        mean = float(np.mean(gaps))
        word: Word = "holds" if mean > 0 else "does not hold"
        note = f"higher in {sum(gap > 0 for gap in gaps)} of {len(gaps)}"
        out.append(Difference(comparison.name, what, Interval(mean, mean, mean), word=word, note=note))
    return out


def _gaps(comparison: ComparisonResult, with_magnitude: str, without: str) -> Iterator[float]:
    for r in dict.fromkeys(row.r for row in comparison.results.rows):
        one, other = comparison.row(with_magnitude, r), comparison.row(without, r)
        if one is None or other is None or one.learning_rate is None or other.learning_rate is None:
            continue
        mine, theirs = measured(one), measured(other)
        best = max(one.learning_rate, other.learning_rate)
        yield from (mine[rate] - theirs[rate] for rate in mine if rate > best and rate in theirs)


def draw(comparisons: Sequence[ComparisonResult], *paths: Path) -> bool:
    """Draw a panel for each comparison and rank into files; return False without a search of a method with a rank."""
    panels = [
        (comparison, r)
        for comparison in comparisons
        if comparison.searched
        for r in dict.fromkeys(row.r for row in comparison.results.rows)
        if any(measured(row) for row in comparison.results.rows if row.r == r and row.method in FOUR)
    ]
    if not panels:
        return False
    across = min(COLUMNS, len(panels))
    down = -(-len(panels) // across)
    width = max(0.6 + 2.9 * across, 4.2)
    with picture(*paths, size=(width, 0.8 + 2.3 * down)) as figure:
        grid = figure.subplots(down, across, sharex=True, squeeze=False).ravel()
        for axes, (comparison, r) in zip(grid, panels, strict=False):
            _panel(axes, comparison, r)
        for k, axes in enumerate(grid):
            axes.tick_params(labelbottom=k + across >= len(panels))
            axes.axis("on" if k < len(panels) else "off")
        figure.supxlabel("learning rate", fontsize=10)
        lines: dict[str, Artist] = {}
        for axes in grid:
            handles, labels = axes.get_legend_handles_labels()
            lines |= dict(zip(labels, handles, strict=True))
        figure.legend(
            list(lines.values()), list(lines), loc="outside upper center", frameon=False,
            ncols=min(len(lines), int(width / ENTRY)),
        )  # fmt: skip
    return True


def _panel(axes: Axes, comparison: ComparisonResult, r: int | None) -> None:
    """Draw the methods at a rank, and full fine-tuning, which has none."""
    for row in comparison.results.rows:
        shown = (row.r == r and row.method in FOUR) or row.method == "full"
        if shown and (found := measured(row)):
            style = method_style(row.method)
            values = [100 * value for value in found.values()]
            axes.plot(
                list(found), values, color=style.color, marker=style.marker, markersize=4.5, linewidth=1.5,
                linestyle="-" if row.method in ("dude", "dora") else "--", label=row.label,
            )  # fmt: skip
    axes.set_xscale("log")
    log_axis(axes.xaxis)
    axes.set_title(f"{comparison.trained_on}, r={r} (accuracy, %)")
