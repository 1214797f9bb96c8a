"""Callbacks for the progress of a run, and silencing of other libraries."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext

from dude_peft.errors import DudeError

from .time_left import Remaining


class Reporter:
    """Callbacks of a run, in the order of the calls. This class does nothing."""

    def checking(self, name: str) -> None:
        """Called before a check of the plan."""

    def check(self, name: str, found: str, error: DudeError | None) -> None:
        """Called when a check of the plan has passed or failed."""

    def stage(self, text: str) -> AbstractContextManager[object]:
        """Return a context manager for a stage of the run."""
        return nullcontext()

    def note(self, text: str) -> None:
        """Called with a message for the user."""

    def prepared(self, what: str, done: int, total: int, left: float | None) -> None:
        """Called when `done` of `total` layers are initialised (`what`: decomposing, preparing).

        `left` is the estimate of the remaining seconds; None if there is none yet.
        """

    def begin(self, step: int, steps: int) -> None:
        """Called when training starts, after `step` of `steps`."""

    def remaining(self, left: Remaining | None) -> None:
        """Called before `progress` with the time left; None as long as too little was measured."""

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Called when a step is logged."""

    def asked(self, done: int, total: int, what: str) -> None:
        """Called when `done` of `total` requests of an evaluation are answered."""

    def evaluated(self, step: int, what: str, value: float) -> None:
        """Called after an evaluation, with its headline value."""

    def validated(self, step: int, loss: float) -> None:
        """Called with the validation loss of a step."""

    def end(self) -> None:
        """Called when training has ended or was stopped."""


def prepare_environment() -> None:
    """Set the environment variables that libraries read on import, unless the user has set them."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def quiet() -> None:
    """Show only errors, and no progress bars, of transformers, datasets, TRL and PEFT; `datasets` is not imported."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    os.environ["DATASETS_VERBOSITY"] = "error"  # read when it is imported
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    if (datasets := sys.modules.get("datasets")) is not None:
        datasets.utils.logging.set_verbosity_error()
        datasets.disable_progress_bars()
    for name in ("trl", "peft", "accelerate", "lm_eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for category in (FutureWarning, UserWarning):
        warnings.filterwarnings(
            "ignore", category=category, module=r"(transformers|trl|peft|torch|accelerate|datasets)\b"
        )
