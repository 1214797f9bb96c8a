"""What a comparison tells whoever watches. The base class is silent; the command line shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .grid import PlannedRun


class Watcher:
    """Callbacks of a comparison. None of them may change it."""

    def begin(self, done: int, total: int) -> None:
        """The work starts: `done` of `total` runs are finished already."""

    def started(self, run: PlannedRun) -> None:
        """A process works on the run."""

    def running(self, runs: Sequence[tuple[PlannedRun, dict[str, Any]]], elsewhere: int) -> None:
        """Called several times a second: runs of this process with their last status, and how many others work on."""

    def finished(self, run: PlannedRun, record: dict[str, Any], *, here: bool) -> None:
        """The run is done, by this process or another."""

    def failed(self, run: PlannedRun, error: str) -> None:
        """The run failed, or the process that worked on it was killed."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def end(self) -> None:
        """No process works any more, for whatever reason."""
