"""Processes that work on runs: some side by side here, and any number of other pools on the same folder."""

from __future__ import annotations

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
from .watcher import Watcher
from .worker import BUSY, FAILED, STOPPED, spec_of, write_failure

LOOK = 0.1  # seconds between two looks at the processes
LOOK_ELSEWHERE = 1.0  # seconds before a run that another pool holds is looked at again


class Stopped(Exception):  # noqa: N818 - not an error
    """The comparison was stopped on request; what was training has a checkpoint."""


@dataclass
class _Child:
    run: PlannedRun
    process: Process


class Pool:
    """Works through runs until none is left that this process may work on.

    Args:
        folder: the comparison's.
        jobs: processes side by side.
        threads: torch's threads in each.
        retry_failed: work again on runs that failed before this pool was made.
        watcher: told about everything that happens.
    """

    def __init__(
        self, folder: ComparisonFolder, *, jobs: int, threads: int, retry_failed: bool, watcher: Watcher
    ) -> None:
        self.folder, self.jobs, self.threads, self.watcher = folder, jobs, threads, watcher
        self.retry_failed = retry_failed
        self.killed: dict[str, str] = {}
        self._failures: dict[str, int | None] = {}  # run -> when it had failed as the pool first saw it
        self._children: list[_Child] = []
        self._launcher = Launcher(folder.state, threads)
        self._told: set[str] = set()
        self._look_again: dict[str, float] = {}
        self._asked = 0

    def has_failed(self, run: PlannedRun) -> bool:
        """Whether the run failed and will not be worked on again by this pool."""
        if run.name not in self._failures:
            self._failures[run.name] = self.folder.failed_at(run)
        now = self.folder.failed_at(run)
        return now is not None and not (self.retry_failed and now == self._failures[run.name])

    def work(self, todo: Callable[[], Sequence[PlannedRun]]) -> None:
        """Work on all runs of `todo()`, in its order; it is asked again and again, so that it may grow.

        Raises:
            Stopped: by Ctrl-C or SIGTERM, once every process has ended.
        """
        for run in todo():
            if self.folder.is_done(run):
                self._told.add(run.name)
        try:
            with self._signals():
                while not self._asked:
                    self._reap()
                    unfinished = self._open(todo())
                    self._fill(unfinished)
                    here = {child.run.name for child in self._children}
                    elsewhere = [run for run in unfinished if run.name not in here and run.name in self._look_again]
                    if not self._children and not unfinished:
                        return
                    shown = [(child.run, self.folder.status(child.run.name)) for child in self._children]
                    self.watcher.running(shown, len(elsewhere))
                    time.sleep(LOOK)
                self._stop()
            raise Stopped
        finally:
            for child in self._children:  # an error of ours, or the second Ctrl-C
                child.process.kill()
                child.process.wait()
            self._launcher.close()
            self.watcher.end()

    def _open(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """Cells that are neither done nor given up; tells of those that have just become so."""
        left = []
        running = {child.run.name for child in self._children}
        for run in runs:
            if run.name in self._told:
                continue
            if run.name in running:
                left.append(run)
            elif self.folder.is_done(run):
                self._tell_done(run, here=False)
            elif self.has_failed(run):
                self._told.add(run.name)
                self.watcher.failed(run, (self.folder.failure(run) or {}).get("error", "failed"))
            elif run.name not in self.killed:
                left.append(run)
        return left

    def _fill(self, runs: Sequence[PlannedRun]) -> None:
        running = {child.run.name for child in self._children}
        for run in runs:
            if len(self._children) >= self.jobs or self._asked:
                return
            if run.name in running or time.monotonic() < self._look_again.get(run.name, 0):
                continue
            if self.folder.is_claimed(run):
                self._look_again[run.name] = time.monotonic() + LOOK_ELSEWHERE
                continue
            self._look_again.pop(run.name, None)
            if self.folder.is_done(run) or self.has_failed(run):
                continue  # by another pool, since `_open` looked; told there
            self._start(run)

    def _start(self, run: PlannedRun) -> None:
        spec = spec_of(run, self.folder.study, self.threads)
        process = self._launcher.start(spec, self.folder.state / f"{run.name}.log")
        self._children.append(_Child(run, process))
        self.watcher.started(run)

    def _reap(self) -> None:
        for child in list(self._children):
            code = child.process.poll()
            if code is None:
                continue
            self._children.remove(child)
            self._settle(child.run, code)

    def _settle(self, run: PlannedRun, code: int) -> None:
        if code == 0:
            self._tell_done(run, here=True)
        elif code == BUSY:
            self._look_again[run.name] = time.monotonic() + LOOK_ELSEWHERE
        elif code == STOPPED or code < 0:
            # Not the config's fault, so no failure: the next start goes on with it.
            how = "was stopped" if code == STOPPED else f"was killed by {_signal(-code)}"
            hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
            self.killed[run.name] = f"its process {how}{hint}; the next start goes on with it"
            if not self._asked:
                self._told.add(run.name)
                self.watcher.failed(run, self.killed[run.name])
        else:
            if self.folder.failed_at(run) is None or code != FAILED:
                what = f"its process ended with exit code {code} and said nothing"
                write_failure(self.folder, run.name, run.settings.resolved(), what)
            self._failures[run.name] = None  # this failure is new: not to be retried by this pool
            self._told.add(run.name)
            self.watcher.failed(run, (self.folder.failure(run) or {}).get("error", "failed"))

    def _tell_done(self, run: PlannedRun, *, here: bool) -> None:
        self._told.add(run.name)
        self.watcher.finished(run, self.folder.record(run) or {}, here=here)

    def _stop(self) -> None:
        """Ask every process to write a checkpoint and end; wait for them, or on a second signal kill them."""
        self.watcher.note("stopping: what is training finishes its step and writes a checkpoint; once more kills it")
        for child in self._children:
            child.process.send_signal(signal.SIGTERM)
        while self._children and self._asked < 2:
            self._reap()
            time.sleep(LOOK)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and a closed terminal ask for a stop; signals are only caught in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            self._asked += 1

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
