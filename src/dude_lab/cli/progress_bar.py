"""Progress output: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dude_peft.errors import DudeError

from ..text import percent
from ..training.record import perplexity
from ..training.reporter import Reporter
from ..training.time_left import Remaining
from .console import CHECKED, FAILED, NOTE, duration

SLOW = 0.5  # seconds: a stage that took longer leaves a line behind
NEWS = 4.0  # seconds before plain output reports an initialisation; each later line waits three times as long


def make_reporter(console: Console) -> Reporter:
    """Return the reporter for a terminal or for plain output."""
    return LiveReporter(console) if console.is_terminal else PlainReporter(console)


class PlainReporter(Reporter):
    """A line for each check, stage and evaluation, and about twenty for the training."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._steps = self._every = 1
        self._left = ""
        self._reported = (0.0, NEWS)  # when, and how long to wait

    def check(self, name: str, found: str, error: DudeError | None) -> None:
        """Print a line for each check."""
        if error is None:
            self.console.print(f"{CHECKED} {name:<10} [dim]{escape(found)}[/]", soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(f"{NOTE} {escape(text)}", soft_wrap=True)

    @contextmanager
    def _timed(self, text: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if (seconds := time.perf_counter() - begin) > SLOW:
            self.console.print(f"{CHECKED} {escape(text)} [dim]{duration(seconds)}[/]", soft_wrap=True)

    def stage(self, text: str) -> AbstractContextManager[object]:
        """Print a line at the end of a slow stage."""
        return self._timed(text)

    def prepared(self, what: str, done: int, total: int, left: float | None) -> None:
        """Print a line at growing intervals: six in half an hour."""
        now = time.perf_counter()
        since, wait = self._reported
        if done == 0:
            self._reported = (now, NEWS)
        elif left is not None and now - since >= wait:
            self._reported = (now, 3 * wait)
            self.console.print(f"{what}: layer {done} of {total}, {duration(left)} left")

    def begin(self, step: int, steps: int) -> None:
        """Store the number of steps."""
        self._steps, self._every, self._left = steps, max(1, steps // 20), ""
        start = f"from step {step} " if step else ""
        self.console.print(f"training {start}to step {steps}")

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Print about twenty lines a run."""
        if step % self._every and step != self._steps:
            return
        line = f"step {step}/{self._steps}  loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s"
        self.console.print(f"{line}  {self._left}".rstrip())

    def remaining(self, left: Remaining | None) -> None:
        """Store the time left for the next line."""
        self._left = "" if left is None else f"{duration(left.seconds)} left"
        if left is not None and left.evaluations:
            self._left += f" + {left.evaluations} evaluation{'s' * (left.evaluations > 1)}"

    def evaluated(self, step: int, what: str, value: float) -> None:
        """Print a line for each evaluation."""
        self.console.print(f"step {step}: {escape(what)} {percent(value)}%")

    def validated(self, step: int, loss: float) -> None:
        """Print a line for each validation loss."""
        self.console.print(f"step {step}: validation loss {loss:.4f}, perplexity {perplexity(loss):.4g}")


class Count(MofNCompleteColumn):
    """Done and total, if a total is known."""

    def render(self, task: Task) -> Text:
        """Return an empty text without a total."""
        return Text("") if task.total is None else super().render(task)


class _Left(ProgressColumn):
    """The time left, as soon as it is known."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None else f"{duration(left)} left", "dim")


class CheckProgress:
    """Which check of a plan is running: a spinner with a bar where the check counts; silent unless on a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), Count(), TimeElapsedColumn())
        self._shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._shown.add_task("checking", total=None)

    def __enter__(self) -> CheckProgress:
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def started(self, name: str) -> None:
        """Show the name of a check."""
        self._shown.remove_task(self._task)  # the total of a task cannot be taken back
        self._task = self._shown.add_task(f"checking {escape(name)}", total=None)

    def moved(self, done: int, total: int) -> None:
        """Show how far the check is."""
        self._shown.update(self._task, completed=done, total=total)


class LiveReporter(PlainReporter):
    """A bar with loss, tokens/s and time left; a spinner, or a bar of layers or questions, for everything else."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar: Progress | None = None
        self._training: TaskID | None = None
        self._stage: tuple[Progress, TaskID] | None = None

    @contextmanager
    def _timed(self, text: str) -> Iterator[None]:
        with super()._timed(text):
            if self._bar is not None:  # in the middle of training: a second line under the bar
                task = self._bar.add_task(escape(text), total=None, loss="", speed="", left="")
                self._stage = (self._bar, task)
                try:
                    yield
                finally:
                    self._stage = None
                    self._bar.remove_task(task)
                return
            spinner = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), Count(), TimeElapsedColumn(), _Left(),
                console=self.console, transient=True, speed_estimate_period=600,
            )  # fmt: skip
            with spinner:
                self._stage = (spinner, spinner.add_task(escape(text), total=None))
                try:
                    yield
                finally:
                    self._stage = None

    def checking(self, name: str) -> None:
        """Show the name of the check that is running."""
        if self._stage is not None:
            bar, task = self._stage
            bar.remove_task(task)
            self._stage = (bar, bar.add_task(f"checking {escape(name)}", total=None))

    def prepared(self, what: str, done: int, total: int, left: float | None) -> None:
        """Show the layers that are initialised."""
        self.asked(done, total, what)

    def asked(self, done: int, total: int, what: str) -> None:
        """Show the requests of an evaluation."""
        if self._stage is not None:
            self._stage[0].update(self._stage[1], completed=done, total=total)

    def begin(self, step: int, steps: int) -> None:
        """Show the bar."""
        self._steps, self._left = steps, ""
        super_steps = f"from step {step}" if step else ""
        if super_steps:
            self.console.print(f"{CHECKED} resuming {super_steps}")
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("[dim]{task.fields[speed]}"),
            TextColumn("[dim]{task.fields[left]}"),
            console=self.console,
        )
        self._training = self._bar.add_task("training", total=steps, completed=step, loss="", speed="", left="")
        self._bar.start()

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Move the bar."""
        if self._bar is not None and self._training is not None:
            fields: dict[str, Any] = {"loss": f"loss {loss:.4f}", "speed": f"{tokens_per_second:,.0f} tokens/s"}
            fields["left"] = self._left
            self._bar.update(self._training, completed=step, **fields)

    def evaluated(self, step: int, what: str, value: float) -> None:
        """Print a line above the bar."""
        self.console.print(f"{CHECKED} {escape(what)} [bold]{percent(value)}%[/] [dim]at step {step}[/]")

    def validated(self, step: int, loss: float) -> None:
        """Print a line above the bar."""
        values = f"validation loss [bold]{loss:.4f}[/], perplexity {perplexity(loss):.4g}"
        self.console.print(f"{CHECKED} {values} [dim]at step {step}[/]")

    def end(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._training = None


@contextmanager
def byte_progress(console: Console, text: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar of bytes with the time left, and yield the function that moves it: bytes done, all bytes, a name."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(escape(text), total=None)
        yield lambda done, total, name: progress.update(task, completed=done, total=total)


def show_failure(console: Console, name: str, error: DudeError) -> None:
    """Print a check that failed."""
    console.print(f"{FAILED} {name:<10} {escape(str(error))}", soft_wrap=True)
