"""What a wrong learning rate costs: validation accuracy at every rate that the searches tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compare.results import RowResult
from ..markdown import escape_markdown
from ..plot_style import log_axis, method_style, picture
from ..stats.intervals import Interval
from .experiments import FOUR
from .paper_tables import PartResult, text
from .verdict import Compared, Word

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAIRS = (("dude", "pissa"), ("dora", "lora"))  # with the magnitude, and the same start without
COLUMNS = 4


def measured(row: RowResult) -> dict[float, float]:
    """Rate -> validation accuracy, of the row's search; empty where none was made or none asked anything."""
    return {one["learning_rate"]: one["accuracy"] for one in row.candidates if one.get("accuracy") is not None}


def table(made: dict[str, Any], part: PartResult) -> dict[str, Any]:
    """The part's table with the searches in place of the runs: every row has `rates`, rate -> share, and `asked`."""
    rows = []
    for one, row in zip(made["rows"], part.results.rows, strict=True):
        asked = next((found["n"] for found in row.candidates if found.get("n")), None)
        rates = {f"{rate:g}": value for rate, value in measured(row).items()}
        rows.append({**one, "rates": rates, "asked": asked})
    return {**made, "rows": rows}


def markdown(made: dict[str, Any]) -> str:
    """A column for each rate, per cent right on validation, the chosen rate's in bold."""
    rates = sorted({rate for row in made["rows"] for rate in row["rates"]}, key=float)
    lines = ["| method | r | " + " | ".join(f"lr {rate}" for rate in rates) + " | n |"]
    lines.append("|---|" + "---:|" * (len(rates) + 2))
    for row in made["rows"]:
        best = None if row["learning_rate"] is None else f"{row['learning_rate']:g}"
        cells = [text(None if rate not in row["rates"] else 100 * row["rates"][rate], "{:.1f}") for rate in rates]
        cells = [f"**{cell}**" if rate == best else cell for rate, cell in zip(rates, cells, strict=True)]
        lines.append(
            "| "
            + " | ".join([escape_markdown(row["label"]), text(row["r"]), *cells, text(row["asked"], "{:,}")])
            + " |"
        )
    return "\n".join(lines) + "\n"


def forgiving(part: PartResult) -> list[Compared]:
    """Of searches at rates above the best of both: the mean difference over ranks and rates, how often it is a gain."""
    out: list[Compared] = []
    if not part.searched:
        return out
    for with_magnitude, without in PAIRS:
        labels = {row.method: row.label for row in part.results.rows}
        if not {with_magnitude, without} <= set(labels):
            continue
        gaps = list(_gaps(part, with_magnitude, without))
        what = f"{labels[with_magnitude]} against {labels[without]} at rates above the best of both"
        if not gaps:
            out.append(Compared(part.name, what, None))
            continue
        mean = float(np.mean(gaps))
        word: Word = "holds" if mean > 0 else "does not hold"
        told = f"{what}, ahead in {sum(gap > 0 for gap in gaps)} of {len(gaps)}, mean"
        out.append(Compared(part.name, told, Interval(mean, mean, mean), word=word))
    return out


def _gaps(part: PartResult, with_magnitude: str, without: str) -> Iterator[float]:
    for r in dict.fromkeys(row.r for row in part.results.rows):
        one, other = part.row(with_magnitude, r), part.row(without, r)
        if one is None or other is None or one.learning_rate is None or other.learning_rate is None:
            continue
        mine, theirs = measured(one), measured(other)
        best = max(one.learning_rate, other.learning_rate)
        yield from (mine[rate] - theirs[rate] for rate in mine if rate > best and rate in theirs)


def draw(parts: Sequence[PartResult], *paths: Path) -> bool:
    """A panel for each part and rank, into files of the kinds that their names say; False without a search."""
    panels = [
        (part, r)
        for part in parts
        if part.searched
        for r in dict.fromkeys(row.r for row in part.results.rows)
        if any(measured(row) for row in part.results.rows if row.r == r)
    ]
    if not panels:
        return False
    across = min(COLUMNS, len(panels))
    down = -(-len(panels) // across)
    with picture(*paths, size=(0.6 + 2.9 * across, 0.8 + 2.3 * down)) as figure:
        grid = figure.subplots(down, across, sharex=True, squeeze=False).ravel()
        for axes, (part, r) in zip(grid, panels, strict=False):
            _panel(axes, part, r)
        for k, axes in enumerate(grid):
            axes.tick_params(labelbottom=k + across >= len(panels))
            axes.axis("on" if k < len(panels) else "off")
        figure.supxlabel("learning rate", fontsize=10)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(FOUR), frameon=False)
    return True


def _panel(axes: Axes, part: PartResult, r: int | None) -> None:
    for row in part.results.rows:
        if row.r == r and row.method in FOUR and (found := measured(row)):
            style = method_style(row.method)
            values = [100 * value for value in found.values()]
            axes.plot(
                list(found), values, color=style.color, marker=style.marker, markersize=4.5, linewidth=1.5,
                linestyle="-" if row.method in ("dude", "dora") else "--", label=row.label,
            )  # fmt: skip
    axes.set_xscale("log")
    log_axis(axes.xaxis)
    axes.set_title(f"{part.trained_on}, r={r} (% right)")
