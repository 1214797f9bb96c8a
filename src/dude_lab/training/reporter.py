"""What training tells whoever watches. The base class is silent; the command line shows it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from dude_peft.errors import DudeError


class Reporter:
    """Callbacks of a run, in the order in which they come. None of them may change the run."""

    def check(self, name: str, found: str, error: DudeError | None) -> None:
        """A check of the plan has passed or failed."""

    def stage(self, text: str) -> AbstractContextManager[object]:
        """Something that takes a while is being done inside the block."""
        return nullcontext()

    def note(self, text: str) -> None:
        """Something the user should know."""

    def prepared(self, what: str, done: int, total: int, left: float | None) -> None:
        """The start of the adapter (`what`: decomposing, preparing) has `done` of its `total` layers behind it.

        `left` is how many more seconds it will take; None where that is not known yet.
        """

    def begin(self, step: int, steps: int) -> None:
        """Training starts, after `step` of `steps`."""

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        """A step was logged."""

    def asked(self, done: int, total: int, what: str) -> None:
        """An evaluation has had `done` of its `total` requests answered."""

    def evaluated(self, step: int, what: str, value: float) -> None:
        """An evaluation gave its headline value."""

    def end(self) -> None:
        """Training has stopped, for whatever reason."""
