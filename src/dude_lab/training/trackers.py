"""Experiment trackers (`train.report_to`): transformers' callbacks, checked in the plan and set up for a run folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError, did_you_mean, quote

if TYPE_CHECKING:
    from transformers import TrainerCallback

PACKAGES = {"azure_ml": "azureml-mlflow", "comet_ml": "comet-ml", "flyte": "flytekit"}
"""Packages that are not called as the tracker."""


def check_trackers(names: tuple[str, ...]) -> None:
    """Check that trackers exist and are installed.

    Raises:
        DudeError: a name that transformers does not know, or a package that is not installed.
    """
    if not names:
        return
    from transformers.integrations import integration_utils

    known = list(integration_utils.INTEGRATION_TO_CALLBACK)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f" Known: {', '.join(known)}."
            raise DudeError(f"train.report_to: transformers has no tracker {quote(name)}.{hint}")
        checked = "flytekit" if name == "flyte" else name
        probe = getattr(integration_utils, f"is_{checked.replace('_', '')}_available", None) or getattr(
            integration_utils, f"is_{checked.removesuffix('_ml')}_available", None
        )
        if probe is not None and not probe():
            raise DudeError(
                f"train.report_to: {name} is not installed: pip install {PACKAGES.get(name, name)}. Or remove it from "
                "train.report_to."
            )


def tracker_callbacks(names: tuple[str, ...], folder: Path, step: int) -> list[TrainerCallback]:
    """Return the callbacks of trackers.

    Args:
        names: of the trackers.
        folder: of the run; TensorBoard's files are in `tensorboard` in it, unless TENSORBOARD_LOGGING_DIR is set.
        step: the step after which the run begins. TensorBoard hides later values of an interrupted part of the run.
    """
    if not names:
        return []
    from transformers.integrations.integration_utils import (
        TensorBoardCallback,
        get_reporting_integration_callbacks,
    )

    class InRunFolder(TensorBoardCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.logging_dir = os.environ.get("TENSORBOARD_LOGGING_DIR") or str(folder / "tensorboard")
            self._first = True

        def _init_summary_writer(self, args: Any) -> None:
            purge = {"purge_step": step + 1} if self._first and step else {}
            self._first = False
            self.tb_writer = self._SummaryWriter(log_dir=self.logging_dir, **purge)

    made = get_reporting_integration_callbacks(list(names))
    return [InRunFolder() if one is TensorBoardCallback else one() for one in made]
