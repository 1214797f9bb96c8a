"""`dude report`: one HTML page about finished runs."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from ..report import write_page
from .console import CHECKED, console, size


def run(paths: list[Path], output: Path) -> int:
    """Write the page and say where it is; returns the exit code."""
    file = write_page(paths, output)
    console().print(
        f"{CHECKED} {escape(str(file))} ({size(file.stat().st_size)}): one file, opens in any browser", soft_wrap=True
    )
    return 0
