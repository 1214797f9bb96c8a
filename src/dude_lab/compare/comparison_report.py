"""Write the table, the figure and the learning rates of a comparison, from its folder only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dude_peft.files import json_values, write_json, write_text

from .comparison_folder import ComparisonFolder
from .comparison_plot import draw
from .results import Results, collect
from .search import choose, write_search
from .table import make_table, markdown


def report(
    folder: ComparisonFolder,
    show: Callable[[dict[str, Any]], None] | None = None,
    results: Results | None = None,
) -> dict[str, Any]:
    """Write the table and the figure of a comparison into its folder; return the table.

    The files depend on the folder only: repeated calls give the same bytes.

    Args:
        folder: folder of the comparison.
        show: called with the table before anything is written, so that it is shown even if the disk is full.
        results: what `collect` returns for the folder, if it was called before.

    Raises:
        DudeError: the folder holds no comparison.
    """
    grid = folder.grid()
    results = results or collect(folder)
    table = make_table(results)
    if show is not None:
        show(table)
    found = [choose(grid, row, folder) for row in grid.rows if len(row.learning_rates) > 1]
    if any(found):
        write_search(folder, [choice for choice in found if choice is not None])
    with folder.writing():
        write_report(results, table, folder.path)
    return table


def write_report(results: Results, table: dict[str, Any], folder: Path) -> None:
    """Write a table (`make_table`) and the figure of its results into a folder."""
    write_json(folder / "table.json", json_values(table))
    write_text(folder / "table.md", markdown(table))
    draw(results, folder / "curves.png", folder / "curves.svg")
