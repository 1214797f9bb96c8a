"""Writes what a comparison has found (table, picture, choices of learning rates), from its folder alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dude_peft.files import json_values, write_json, write_text

from .comparison_folder import ComparisonFolder
from .comparison_plot import draw
from .results import Results, collect
from .search import choose, write_choices
from .table import make_table, markdown


def report(folder: ComparisonFolder, show: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Collect the folder's runs and write table and picture into it; returns the table.

    The files depend on nothing but the folder: written again they are the same bytes.

    Args:
        folder: the comparison's.
        show: called with the table before anything is written, so that a full disk does not lose it.

    Raises:
        DudeError: no comparison there.
    """
    grid = folder.grid()
    results = collect(folder)
    table = make_table(results)
    if show is not None:
        show(table)
    choices = [choose(grid, row, folder) for row in grid.rows if len(row.learning_rates) > 1]
    if any(choices):
        write_choices(folder, [choice for choice in choices if choice is not None])
    with folder.writing():
        write_report(results, table, folder.path)
    return table


def write_report(results: Results, table: dict[str, Any], folder: Path) -> None:
    """Write the table (`make_table`) and the picture of any results into a folder."""
    write_json(folder / "table.json", json_values(table))
    write_text(folder / "table.md", markdown(table))
    draw(results, folder / "curves.png", folder / "curves.svg")
