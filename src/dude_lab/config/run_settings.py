"""The whole config of a run: what each section of the YAML allows, and its defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ..data import DataSettings
from ..evaluation import EvalSettings
from ..methods import MethodSettings
from .section import Settings, UserPath


class ModelSettings(Settings):
    """The base model. `model: NAME` is short for `model: {name: NAME}`.

    `name` is `mini` (the embedded model), a local folder, or a hub name. Only safetensors are loaded. `dtype: auto` is
    bfloat16 on a GPU that has it and float32 elsewhere, and float32 wherever the whole model is trained: a bfloat16
    parameter cannot take a step of 1e-5.
    """

    name: str = Field(min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False


class TrainSettings(Settings):
    """The recipe. Give `steps` or `epochs`, not both; with neither, one epoch.

    A step is one update of the optimizer, over `batch_size * gradient_accumulation` examples, whatever the number of
    processes: under `torchrun` they divide each batch, so `batch_size` has to be a multiple of their number. `warmup`
    below 1 is a share of all steps, from 1 on a number of steps. `max_length` counts tokens of prompt, completion and
    end token; without it, 1024 or the longest the model takes. An example above it is dropped (and counted in the
    report) or, with `overlong: truncate`, cut at its end. `group_by_length` puts examples of about one length into a
    batch: less padding, the same examples in another order.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=8, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.03, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int | None = Field(default=None, ge=2)
    overlong: Literal["drop", "truncate"] = "drop"
    completion_only_loss: bool = True
    group_by_length: bool = False
    gradient_checkpointing: bool = False
    seed: int = Field(default=42, ge=0, lt=2**32)
    data_seed: int | None = Field(default=None, ge=0, lt=2**32)  # order of the examples; None: the seed
    save_every: int = Field(default=100, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _one_length(self) -> TrainSettings:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"give steps or epochs, not both (got steps: {self.steps}, epochs: {self.epochs}); to replace one on "
                "the command line, set the other to null, as in train.epochs=null"
            )
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise ValueError(f"warmup is a share below 1 or a whole number of steps, got {self.warmup}")
        return self


class RunSettings(Settings):
    """A run: everything that decides its result, and the folder it is written to."""

    model: ModelSettings
    method: SerializeAsAny[MethodSettings]
    data: DataSettings
    train: TrainSettings = TrainSettings()
    eval: EvalSettings | None = None
    output: UserPath

    def resolved(self) -> dict[str, Any]:
        """Plain values for YAML and JSON, every default written out."""
        return self.model_dump(mode="json")
