"""What the commands print with: one console, and the few shapes of output that they share."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..training.distributed import process_rank

CHECKED = "[green]✓[/]"
FAILED = "[red]✗[/]"
NOTE = "[yellow]![/]"


def console() -> Console:
    """Standard output; plain, and as wide as a table needs, where it is no terminal. Of several processes the first."""
    if process_rank():
        return Console(quiet=True)
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=120, no_color=True)


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """A table without a frame; the columns in `right` hold numbers."""
    made = Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, collapse_padding=True
    )
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def facts(rows: list[tuple[str, str]]) -> Table:
    """Names and values in two columns."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, escape(value))
    return made


def size(count: float) -> str:
    """Bytes in a unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
