"""Callbacks with the progress of a comparison. The base class does nothing; the command line shows progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .grid import PlannedRun


class Watcher:
    """Callbacks of a comparison."""

    def begin(self, done: int, total: int) -> None:
        """Called at the start, when `done` of `total` runs are finished."""

    def started(self, run: PlannedRun) -> None:
        """Called when a process starts the run."""

    def running(self, runs: Sequence[tuple[PlannedRun, dict[str, Any]]], elsewhere: int) -> None:
        """Called several times a second with the running runs, their status, and the number of runs of other pools."""

    def finished(self, run: PlannedRun, record: dict[str, Any], *, here: bool) -> None:
        """Called when the run has finished, here or in another pool."""

    def failed(self, run: PlannedRun, error: str) -> None:
        """Called when the run has failed or its process was killed."""

    def note(self, text: str) -> None:
        """Called with a message for the user."""

    def end(self) -> None:
        """Called when no process is left, whatever the reason."""
