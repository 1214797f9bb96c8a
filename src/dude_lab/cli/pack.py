"""`dude pack` and `dude unpack`: a study as a few Parquet files, and as run folders again."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from ..compare.packing import Packing, pack, unpack
from .console import CHECKED, NOTE, console, size


def run_pack(study: Path, output: Path | None, *, discard_weights: bool) -> int:
    """Pack a study and print what was written; return the exit code."""
    made = pack(study, output, discard_weights=discard_weights)
    _say(made, f"{made.runs} runs packed")
    if made.unfinished:
        names = ", ".join(made.unfinished[:3]) + (" ..." if len(made.unfinished) > 3 else "")
        console().print(
            f"{NOTE} {len(made.unfinished)} run folders are not finished and were not packed: {names}", soft_wrap=True
        )
    return 0


def run_unpack(study: Path, output: Path | None) -> int:
    """Unpack a study and print what was written; return the exit code."""
    made = unpack(study, output)
    _say(made, f"{made.runs} runs written as folders")
    return 0


def _say(made: Packing, what: str) -> None:
    files, sizes = made.files, made.bytes
    console().print(
        f"{CHECKED} {escape(str(made.folder))}: {what}; {files[0]:,} files ({size(sizes[0])}) before, {files[1]:,} "
        f"({size(sizes[1])}) after",
        soft_wrap=True,
    )
