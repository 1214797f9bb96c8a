"""Worker processes of a comparison: several in parallel here, and any number of other pools on the same folder."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .comparison_folder import ComparisonFolder
from .grid import PlannedRun
from .processes import Launcher, Process
from .worker import BUSY, FAILED, PAUSED, STOPPED, spec_of, write_failure

POLL = 0.1  # seconds between two polls of the processes
POLL_OTHERS = 1.0  # seconds between two looks at all runs, which other pools may have claimed, finished or released
STOPPING = "stopping: training runs finish their step and write a checkpoint; press Ctrl-C again to kill them"


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

    def paused(self, run: PlannedRun, step: int) -> None:
        """Called when the run has stopped after the step that the pool was made for."""

    def note(self, text: str) -> None:
        """Called with a message for the user."""

    def end(self) -> None:
        """Called when no process is left, whatever the reason."""


class Stopped(Exception):  # noqa: N818 - not an error
    """The comparison was stopped on request; unfinished runs have a checkpoint."""


class TimeUp(Exception):  # noqa: N818 - not an error
    """The pool's deadline has passed; unfinished runs have a checkpoint."""


@dataclass
class _Child:
    run: PlannedRun
    process: Process


class Pool:
    """Executes the runs of a comparison until none is left for this pool.

    When a process is killed by SIGKILL while others run, memory was probably too small for all of them: its run is
    repeated, and it and the other runs of its row are from then on executed while no other run is.

    Args:
        folder: folder of the comparison.
        jobs: number of processes in parallel.
        threads: torch threads per process.
        retry_failed: retry runs that failed before this pool was made.
        watcher: notified of everything that happens.
        stop_at: stop every run after this step, with a checkpoint; a shorter one finishes.
        deadline: value of `time.monotonic()` at which the processes are stopped.
    """

    def __init__(
        self,
        folder: ComparisonFolder,
        *,
        jobs: int,
        threads: int,
        retry_failed: bool,
        watcher: Watcher,
        stop_at: int | None = None,
        deadline: float = math.inf,
    ) -> None:
        self.folder, self.jobs, self.threads, self.watcher = folder, jobs, threads, watcher
        self.retry_failed, self.stop_at, self.deadline = retry_failed, stop_at, deadline
        self.killed: dict[str, str] = {}
        self._alone: set[str] = set()  # rows whose runs are executed one at a time
        self._failures: dict[str, int | None] = {}  # run -> time of its failure when this pool first saw it
        self._children: list[_Child] = []
        self._launcher = Launcher(folder.state, threads)
        self._reported: set[str] = set()
        self._next_check: dict[str, float] = {}
        self._stop_requests = 0

    def has_failed(self, run: PlannedRun) -> bool:
        """Whether the run failed and will not be retried by this pool."""
        if run.name not in self._failures:
            self._failures[run.name] = self.folder.failed_at(run)
        now = self.folder.failed_at(run)
        return now is not None and not (self.retry_failed and now == self._failures[run.name])

    def work(self, todo: Callable[[], Sequence[PlannedRun]], *, last: bool = True) -> None:
        """Execute all runs of `todo()` in its order; it is called repeatedly, so it may grow.

        Args:
            todo: returns the runs.
            last: whether no other call follows; otherwise the server of the forks stays for the next, until `close`.

        Raises:
            Stopped: by Ctrl-C or SIGTERM, after every process has ended.
            TimeUp: at the deadline, after every process has ended.
        """
        self._reported = {run.name for run in todo() if self._is_done(run)}
        next_look, elsewhere = 0.0, 0
        try:
            with self._signals():
                while not self._stop_requests:
                    ended = self._reap()
                    if time.monotonic() >= self.deadline:
                        self._stop()
                        raise TimeUp
                    if ended or time.monotonic() >= next_look:
                        unfinished = self._open(todo())
                        self._fill(unfinished)
                        here = {child.run.name for child in self._children}
                        elsewhere = sum(run.name not in here and run.name in self._next_check for run in unfinished)
                        if not self._children and not unfinished:
                            return
                        next_look = time.monotonic() + POLL_OTHERS
                    shown = [(child.run, self.folder.status(child.run.name)) for child in self._children]
                    self.watcher.running(shown, elsewhere)
                    time.sleep(POLL)
                self.watcher.note(STOPPING)
                self._stop()
            raise Stopped
        finally:
            for child in self._children:  # an exception, or a second Ctrl-C
                child.process.kill()
                child.process.wait()
            self._children.clear()
            if last:
                self.close()
            self.watcher.end()

    def close(self) -> None:
        """End the server of the forks."""
        self._launcher.close()

    def _open(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """Return the unfinished runs; report those that have finished or failed since the last call."""
        left = []
        running = {child.run.name for child in self._children}
        for run in runs:
            if run.name in self._reported:
                continue
            if run.name in running:
                left.append(run)
            elif self._is_done(run):
                self._report_done(run, here=False)
            elif self.has_failed(run):
                self._reported.add(run.name)
                self.watcher.failed(run, (self.folder.failure(run) or {}).get("error", "failed"))
            elif run.name not in self.killed:
                left.append(run)
        return left

    def _fill(self, runs: Sequence[PlannedRun]) -> None:
        running = {child.run.name for child in self._children}
        for run in runs:
            if len(self._children) >= self.jobs or self._stop_requests:
                return
            if any(child.run.row in self._alone for child in self._children):
                return
            if self._children and run.row in self._alone:
                continue
            if run.name in running or time.monotonic() < self._next_check.get(run.name, 0):
                continue
            if self.folder.is_claimed(run):
                self._next_check[run.name] = time.monotonic() + POLL_OTHERS
                continue
            self._next_check.pop(run.name, None)
            if self._is_done(run) or self.has_failed(run):
                continue  # by another pool, since `_open` checked; reported there
            self._start(run)

    def _start(self, run: PlannedRun) -> None:
        spec = spec_of(run, self.folder.study, self.threads, self.stop_at)
        process = self._launcher.start(spec, self.folder.state / f"{run.name}.log")
        self._children.append(_Child(run, process))
        self.watcher.started(run)

    def _reap(self) -> bool:
        """Settle the runs whose process has ended; return whether there was one."""
        ended = [(child, code) for child in self._children if (code := child.process.poll()) is not None]
        for child, code in ended:
            self._children.remove(child)
            self._settle(child.run, code)
        return bool(ended)

    def _settle(self, run: PlannedRun, code: int) -> None:
        if code in (0, PAUSED):
            self._report_done(run, here=True)
        elif code == BUSY:
            self._next_check[run.name] = time.monotonic() + POLL_OTHERS
        elif code == -signal.SIGKILL and self._children and not self._stop_requests:
            self._alone.add(run.row)
            self.watcher.note(
                f"{run.title}: its process was killed by SIGKILL, perhaps because memory is too small for "
                f"{len(self._children) + 1} runs in parallel; it resumes when no other run is executed."
            )
        elif code == STOPPED or code < 0:
            # Not a failure of the config: it resumes when the comparison is started again.
            how = "was stopped" if code == STOPPED else f"was killed by {_signal(-code)}"
            hint = ", perhaps out of memory" if code == -signal.SIGKILL else ""
            self.killed[run.name] = f"its process {how}{hint}; it resumes when the command is repeated"
            if not self._stop_requests:
                self._reported.add(run.name)
                self.watcher.failed(run, self.killed[run.name])
        else:
            if self.folder.failed_at(run) is None or code != FAILED:
                what = f"its process ended with exit code {code} without an error message"
                write_failure(self.folder, run.name, run.settings.resolved(), what)
            self._failures[run.name] = None  # a new failure, not to be retried by this pool
            self._reported.add(run.name)
            self.watcher.failed(run, (self.folder.failure(run) or {}).get("error", "failed"))

    def _is_done(self, run: PlannedRun) -> bool:
        """Whether the run is finished, or has reached `stop_at`."""
        return self.folder.is_done(run) or (self.stop_at is not None and self.folder.last_step(run) >= self.stop_at)

    def _report_done(self, run: PlannedRun, *, here: bool) -> None:
        self._reported.add(run.name)
        if self.stop_at is not None and not self.folder.is_done(run):
            self.watcher.paused(run, self.folder.last_step(run))
            return
        self.watcher.finished(run, self.folder.record(run) or {}, here=here)

    def _stop(self) -> None:
        """Send SIGTERM to every process and wait until it has written a checkpoint; on a second signal, kill it."""
        for child in self._children:
            child.process.send_signal(signal.SIGTERM)
        while self._children and self._stop_requests < 2:
            self._reap()
            time.sleep(POLL)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Count SIGINT, SIGTERM and SIGHUP as requests to stop; only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            self._stop_requests += 1

        numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
        old = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
