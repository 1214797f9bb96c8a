"""What a run reports while it runs, and how other libraries are silenced meanwhile."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext

from dude_peft.errors import DudeError


class Reporter:
    """Callbacks of a run, in the order of the calls; none changes the run. This class is silent."""

    def check(self, name: str, found: str, error: DudeError | None) -> None:
        """A check of the plan has passed or failed."""

    def stage(self, text: str) -> AbstractContextManager[object]:
        """A stage that takes a while runs inside the block."""
        return nullcontext()

    def note(self, text: str) -> None:
        """Something the user should know."""

    def prepared(self, what: str, done: int, total: int, left: float | None) -> None:
        """The adapter's initialisation (`what`: decomposing, preparing) has finished `done` of `total` layers.

        `left` is the estimate of the remaining seconds; None if there is none yet.
        """

    def begin(self, step: int, steps: int) -> None:
        """Training starts, after `step` of `steps`."""

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        """A step was logged."""

    def asked(self, done: int, total: int, what: str) -> None:
        """`done` of the `total` requests of an evaluation are answered."""

    def evaluated(self, step: int, what: str, value: float) -> None:
        """An evaluation has ended, with its headline value."""

    def end(self) -> None:
        """Training has ended or was stopped."""


def prepare_environment() -> None:
    """Set the environment variables that libraries read on import, unless the user has set them."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def quiet() -> None:
    """Show only errors, and no progress bars, of transformers, datasets, TRL and PEFT."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in ("trl", "peft", "accelerate", "lm_eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for category in (FutureWarning, UserWarning):
        warnings.filterwarnings(
            "ignore", category=category, module=r"(transformers|trl|peft|torch|accelerate|datasets)\b"
        )
