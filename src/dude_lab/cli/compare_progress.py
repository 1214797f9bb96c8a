"""A comparison as it is watched: live bars on a terminal, plain lines elsewhere."""

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
from ..compare.watcher import Watcher
from .console import CHECKED, FAILED, NOTE, duration
from .progress_bar import Count

WIDE = 110  # columns of a terminal that has room for bars beside the words


def make_watcher(console: Console) -> Watcher:
    """The one that suits where the output goes."""
    return LiveWatcher(console) if console.is_terminal else PlainWatcher(console)


class PlainWatcher(Watcher):
    """A line for each run that starts, ends or fails."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._done = self._total = 0
        self._since: dict[str, float] = {}

    def begin(self, done: int, total: int) -> None:
        """How much there is to do."""
        self._done, self._total = done, total
        self._say(f"{done} of {total} runs are finished")

    def started(self, run: PlannedRun) -> None:
        """One line."""
        self._since[run.name] = time.monotonic()
        self._say(f"  started  {escape(run.title)}")

    def finished(self, run: PlannedRun, record: dict[str, Any], *, here: bool) -> None:
        """One line, with the result."""
        self._done += 1
        after = record["metrics"]["after"] or {}
        words = [f"accuracy {after['accuracy']:.1%}"] if "accuracy" in after else []
        loss = record.get("training", {}).get("last_tenth_loss")
        words += [f"loss {loss:.4f}"] if loss is not None else []
        words += [duration(time.monotonic() - self._since[run.name])] if here else ["by another process"]
        self._say(f"{CHECKED} [dim]{self._done}/{self._total}[/] {escape(run.title)}  [dim]{', '.join(words)}[/]")

    def failed(self, run: PlannedRun, error: str) -> None:
        """One line, with the reason."""
        self._say(f"{FAILED} {escape(run.title)}: {escape(error)}")

    def note(self, text: str) -> None:
        """One line."""
        self._say(f"{NOTE} {escape(text)}")

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=not self.console.is_terminal)


class LiveWatcher(PlainWatcher):
    """One bar for all runs, and a line for each that is running."""

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
        """A line of its own under the bar."""
        self._since[run.name] = time.monotonic()
        self._lines[run.name] = self._bars.add_task(f"  {escape(run.title)}", total=None, facts="starting")

    def running(self, runs: Sequence[tuple[PlannedRun, dict[str, Any]]], elsewhere: int) -> None:
        """Move the lines; those of runs that run no more go."""
        for name in [name for name in self._lines if name not in {run.name for run, _ in runs}]:
            self._bars.remove_task(self._lines.pop(name))
        for run, status in runs:
            if run.name in self._lines and status:
                done, total, facts = _facts(status)
                number = self._lines[run.name]
                task = next(one for one in self._bars.tasks if one.id == number)
                task.total = total  # `update` takes None for "as it was", and the last stage's total would stay
                self._bars.update(number, completed=done, facts=facts)
        if self._all is not None:
            others = f"{elsewhere} more in other processes" if elsewhere else ""
            self._bars.update(self._all, completed=self._done, facts=others)

    def end(self) -> None:
        """Take the bars away; the lines above stay."""
        self._bars.stop()


def _facts(status: dict[str, Any]) -> tuple[int, int | None, str]:
    """How far a run is: done, of how many, and what a person wants to know beside it."""
    stage = str(status.get("stage", ""))
    left = f"{duration(status['left'])} left" if status.get("left") is not None else ""
    if stage == "training":
        loss = f"loss {status['loss']:.4f}, " if "loss" in status else ""
        return status.get("step", 0), status.get("steps"), f"{loss}{left}"
    return status.get("done") or 0, status.get("total"), escape(f"{stage}, {left}" if left else stage)
