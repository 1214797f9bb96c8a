"""The console of the commands, and the forms of output that they share."""

from __future__ import annotations

import shlex

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..training.distributed import process_rank

CHECKED = "[green]✓[/]"
FAILED = "[red]✗[/]"
NOTE = "[yellow]![/]"


def console() -> Console:
    """Return the console of standard output: 120 columns without colours if it is not a terminal, silent in all
    processes but the first.
    """
    if process_rank():
        return Console(quiet=True)
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=120, no_color=True)


def show_notes(notes: list[str]) -> None:
    """Print notes, one a line."""
    for note in notes:
        console().print(f"{NOTE} {escape(note)}", soft_wrap=True)


def show_next(*commands: list[str]) -> None:
    """Print commands that follow, ready to be copied, each a list of words."""
    for command in commands:
        console().print(Text(f"next: {shlex.join(command)}"), soft_wrap=True)


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """Return a table without a frame; the columns in `right` are aligned to the right."""
    made = Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, collapse_padding=True
    )
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def facts(rows: list[tuple[str, str]]) -> Table:
    """Return a table of names and values."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, escape(value))
    return made


def size(count: float) -> str:
    """Format a number of bytes."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def duration(seconds: float) -> str:
    """Format a number of seconds."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
