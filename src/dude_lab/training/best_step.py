"""The best evaluation of a run, for early stopping and for loading its checkpoint at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config.run_settings import RunSettings


@dataclass
class BestStep:
    """The best evaluation so far; counts as transformers' `EarlyStoppingCallback`.

    Attributes:
        metric: `loss` or `accuracy`, of which the largest is best.
        patience: evaluations in a row without a new best value after which a run ends; None if it does not.
        step: optimizer step of the best evaluation; 0 before the first one.
        value: its value; None before the first one.
        waited: evaluations since then.
    """

    metric: str
    patience: int | None = None
    step: int = 0
    value: float | None = None
    waited: int = 0

    @classmethod
    def of(cls, settings: RunSettings) -> BestStep | None:
        """Return the one of a run; None if it neither stops early nor loads the best checkpoint."""
        train = settings.train
        if train.early_stopping_patience is None and not train.load_best_model_at_end:
            return None
        return cls(settings.metric_for_best_model, train.early_stopping_patience)

    def update(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Count the evaluation of a step, and return whether it is the best so far."""
        value = metrics[{"loss": "validation_loss"}.get(self.metric, self.metric)]
        better = self.value is None or (value > self.value if self.metric == "accuracy" else value < self.value)
        if better:
            self.step, self.value, self.waited = step, value, 0
        else:
            self.waited += 1
        return better

    @property
    def exhausted(self) -> bool:
        """Whether the run ends."""
        return self.patience is not None and self.waited >= self.patience

    def facts(self, ended: str, *, loaded: bool) -> dict[str, Any]:
        """Return what the record says: the best step, whether its checkpoint was loaded, and why the run ended."""
        return {
            "best_step": self.step,
            "best_metric": self.metric,
            "best_value": self.value,
            "best_loaded": loaded,
            "ended": ended,
        }

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint stores, for `restore`."""
        return {"step": self.step, "value": self.value, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set the state to that of a checkpoint."""
        self.step, self.value, self.waited = state["step"], state["value"], state["waited"]
