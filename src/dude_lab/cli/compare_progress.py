"""Progress of a comparison: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from ..compare.grid import PlannedRun
from ..compare.pool import Watcher
from ..text import percent
from .console import CHECKED, FAILED, NOTE, duration
from .progress_bar import Count

WIDE = 110  # terminal columns from which bars are shown


def make_watcher(console: Console) -> Watcher:
    """Return the watcher for the console: live on a terminal, else plain."""
    return LiveWatcher(console) if console.is_terminal else PlainWatcher(console)


class PlainWatcher(Watcher):
    """Prints a line for each run that starts, finishes or fails."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._done = self._total = 0
        self._since: dict[str, float] = {}

    def begin(self, done: int, total: int) -> None:
        """Print the number of finished runs and of all."""
        self._done, self._total = done, total
        self._say(f"{done} of {total} runs are finished")

    def started(self, run: PlannedRun) -> None:
        """Print one line."""
        self._since[run.name] = time.monotonic()
        self._say(f"  started  {escape(run.title)}")

    def finished(self, run: PlannedRun, record: dict[str, Any], *, here: bool) -> None:
        """Print one line with the result."""
        self._done += 1
        after = record["metrics"]["after"] or {}
        words = [f"accuracy {percent(after['accuracy'])}%"] if "accuracy" in after else []
        loss = record.get("training", {}).get("last_tenth_loss")
        words += [f"loss {loss:.4f}"] if loss is not None else []
        words += [duration(time.monotonic() - self._since[run.name])] if here else ["by another process"]
        self._say(f"{CHECKED} [dim]{self._done}/{self._total}[/] {escape(run.title)}  [dim]{', '.join(words)}[/]")

    def paused(self, run: PlannedRun, step: int) -> None:
        """Print one line with the step."""
        self._done += 1
        took = f", {duration(time.monotonic() - self._since[run.name])}" if run.name in self._since else ""
        self._say(f"{CHECKED} [dim]{self._done}/{self._total}[/] {escape(run.title)}  [dim]at step {step:,}{took}[/]")

    def failed(self, run: PlannedRun, error: str) -> None:
        """Print one line with the error."""
        self._say(f"{FAILED} {escape(run.title)}: {escape(error)}")

    def note(self, text: str) -> None:
        """Print one line."""
        self._say(f"{NOTE} {escape(text)}")

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=not self.console.is_terminal)


class LiveWatcher(PlainWatcher):
    """Shows one bar for all runs, and a line for each running one."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}"),
            Count(),
            TextColumn("[dim]{task.fields[facts]}"),
        ]
        if console.width >= WIDE:
            columns = [columns[0], BarColumn(24), *columns[1:], TimeElapsedColumn()]
        self._bars = Progress(*columns, console=console, transient=True)
        self._all: TaskID | None = None
        self._lines: dict[str, TaskID] = {}

    def begin(self, done: int, total: int) -> None:
        """Show the bar of all runs."""
        self._done, self._total = done, total
        self._bars.start()
        self._all = self._bars.add_task("[bold]all runs", total=total, completed=done, facts="")

    def started(self, run: PlannedRun) -> None:
        """Add a line for the run."""
        self._since[run.name] = time.monotonic()
        self._lines[run.name] = self._bars.add_task(f"  {escape(run.title)}", total=None, facts="starting")

    def running(self, runs: Sequence[tuple[PlannedRun, dict[str, Any]]], elsewhere: int) -> None:
        """Update the lines; remove those of runs that have ended."""
        for name in [name for name in self._lines if name not in {run.name for run, _ in runs}]:
            self._bars.remove_task(self._lines.pop(name))
        for run, status in runs:
            if run.name in self._lines and status:
                done, total, facts = _facts(status)
                number = self._lines[run.name]
                task = next(one for one in self._bars.tasks if one.id == number)
                task.total = total  # `update` ignores None, and the total of the last stage would stay
                self._bars.update(number, completed=done, facts=facts)
        if self._all is not None:
            others = f"{elsewhere} more in other processes" if elsewhere else ""
            self._bars.update(self._all, completed=self._done, facts=others)

    def end(self) -> None:
        """Remove the bars; the lines above stay."""
        self._bars.stop()


def _facts(status: dict[str, Any]) -> tuple[int, int | None, str]:
    """Return the progress of a run: done, total, and details."""
    stage = str(status.get("stage", ""))
    left = f"{duration(status['left'])} left" if status.get("left") is not None else ""
    if stage == "training":
        loss = f"loss {status['loss']:.4f}, " if "loss" in status else ""
        return status.get("step", 0), status.get("steps"), f"{loss}{left}"
    return status.get("done") or 0, status.get("total"), escape(f"{stage}, {left}" if left else stage)
