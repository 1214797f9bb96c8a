"""Handle Ctrl-C and SIGTERM during a run: stop at once, or after the current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .reporter import Reporter


class StopRequest:
    """Handles SIGINT and SIGTERM for the length of a run; use as a context manager.

    A signal raises `KeyboardInterrupt` at once. Inside `deferred` the first one only sets `asked`, and the code in the
    block decides when to stop; a second one raises. Signals are only caught in the main thread.

    Attributes:
        at: optimizer step after which the run stops as if it were asked to; None: none.
        asked: whether a stop was requested.
        stage: what the run is doing, as in "stopped while ...".
    """

    def __init__(self, reporter: Reporter, at: int | None = None) -> None:
        self.reporter, self.at = reporter, at
        self.asked = False
        self.stage = "checking"
        self._note: str | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self, note: str) -> Iterator[None]:
        """Only set `asked` inside the block; `note` tells the user when the run will stop."""
        before, self._note = self._note, note
        try:
            yield
        finally:
            self._note = before

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside `deferred`, let a signal end this block at once by `KeyboardInterrupt`."""
        before, self._note = self._note, None
        try:
            yield
        finally:
            self._note = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if again or self._note is None:
            raise KeyboardInterrupt
        self.reporter.note(self._note)
