"""Detect, record and report a run whose loss, gradient or parameters are not finite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dude_peft.errors import DudeError
from dude_peft.files import read_json, write_json

if TYPE_CHECKING:
    import torch
    from torch import nn

MARKER = "diverged.json"


class NotFinite(Exception):  # noqa: N818 - turned into a DudeError where the run folder is known
    """The loss, the gradient norm or a parameter of a run is NaN or infinite.

    Attributes:
        step: the optimizer step, from 1; 0 before the first.
        what: `loss`, `gradient norm`, `parameters` or `validation loss`.
        module: the first module whose parameter or gradient is not finite; None if all are finite.
    """

    def __init__(self, step: int, what: str, module: str | None) -> None:
        super().__init__(f"{what} not finite at step {step}")
        self.step, self.what, self.module = step, what, module


@dataclass(frozen=True)
class Divergence:
    """Content of `diverged.json` in a run folder.

    Attributes:
        step: the optimizer step, from 1.
        checkpoint: step of the last checkpoint, whose parameters are finite; None if there is none.
    """

    step: int
    what: str
    module: str | None
    checkpoint: int | None
    learning_rate: float

    @classmethod
    def read(cls, folder: Path) -> Divergence | None:
        """Read it from a run folder; None if the run has not diverged."""
        path = folder / MARKER
        if not path.is_file():
            return None
        remedy = "It records why this run was stopped; delete it to resume the run."
        values = read_json(path, remedy)
        if missing := sorted(cls.__dataclass_fields__.keys() - values.keys()):
            raise DudeError(f"{path}: has no {missing[0]!r}. {remedy}")
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})

    def write(self, folder: Path) -> None:
        """Write it into a run folder."""
        write_json(folder / MARKER, asdict(self))

    def message(self, folder: Path) -> str:
        """Return the error message: what happened, the last checkpoint and the remedy."""
        where = f", first in module '{self.module}'" if self.module else ""
        verb = "were" if self.what == "parameters" else "was"
        if self.checkpoint is None:
            left = "There is no earlier checkpoint."
        else:
            path = folder / "checkpoints" / f"checkpoint-{self.checkpoint}"
            left = f"{path} is the last finite checkpoint; --resume {path} resumes from it."
        return (
            f"{folder}: this run diverged: the {self.what} {verb} not finite at step {self.step}{where}. Lower "
            f"train.learning_rate ({self.learning_rate}), lengthen train.warmup, or load the model with "
            f"model.dtype=float32, and choose another folder with output=DIR. {left}"
        )


def first_not_finite(model: nn.Module) -> str | None:
    """Return the name of the first module with a parameter, or else a gradient, that is not finite."""
    for pick in (lambda p: p, lambda p: p.grad):
        for name, parameter in model.named_parameters():
            tensor = pick(parameter)
            tensor = getattr(tensor, "_local_tensor", tensor)  # of a sharded parameter, this process's part
            if tensor is not None and not bool(tensor.isfinite().all()):
                return name.rpartition(".")[0] or name
    return None


def all_finite(parameters: Iterable[torch.Tensor]) -> bool:
    """Return whether all values are finite; synchronises with the device once.

    Of a sharded tensor it checks this process's part.
    """
    import torch

    found = [getattr(p, "_local_tensor", p).isfinite().all() for p in parameters]
    return not found or bool(torch.stack([f.to(found[0].device) for f in found]).all())
