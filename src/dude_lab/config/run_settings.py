"""The config of a run: the keys of each section of the YAML, and their defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ..methods import METHODS, MethodSettings
from ..settings import Settings, UserPath
from .data_settings import DataSettings
from .eval_settings import EvalSettings


class ModelSettings(Settings):
    """The base model. `model: NAME` is short for `model: {name: NAME}`.

    Attributes:
        name: `mini` (the model that ships with the package), `smollm2` (SmolLM2-135M-Instruct, after `dude fetch
            smollm2`), a local folder, a GGUF file, or a name on the Hugging Face hub. Of a folder only safetensors are
            loaded; a GGUF file is converted once, to float32.
        dtype: dtype of the weights. `auto` is bfloat16 on a GPU that supports it, else float32; full fine-tuning always
            uses float32, since a bfloat16 parameter does not change by steps of 1e-5.
        quantization: quantise the linear layers of the base model on loading, by bitsandbytes: `nf4` (4 bits, with
            double quantisation) or `int8`. No quantisation if null.
        revision: branch, tag or commit on the hub. The default branch if null.
        trust_remote_code: run the Python code that the model's repository ships.
        chat_template: file of a chat template in Jinja, used in place of the model's; for a model without one. It is
            saved with the adapter's tokenizer, and a finished run is used with the saved one.
    """

    name: str = Field(min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["nf4", "int8"] | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    chat_template: str | None = Field(default=None, min_length=1)


class TrainSettings(Settings):
    """The training recipe.

    Attributes:
        steps: optimizer steps. Set `steps` or `epochs`, not both; with neither, one epoch.
        epochs: passes over the training data.
        batch_size: examples in one forward and backward, over all processes: under `torchrun` it must be a multiple of
            their number.
        gradient_accumulation: batches per optimizer step.
        learning_rate: peak learning rate of AdamW. If not set, that of the method: 5e-5 for DuDe and PiSSA, 2e-5 for
            full fine-tuning, 2e-4 for the others. These suit models of billions of parameters; smaller ones want more,
            and `dude tune` chooses one.
        schedule: shape of the learning rate after the warm-up.
        warmup: a fraction of all steps if below 1, else a number of steps.
        weight_decay: AdamW's weight decay.
        adam_beta1: decay rate of AdamW's first moment.
        adam_beta2: decay rate of AdamW's second moment.
        adam_epsilon: AdamW's epsilon.
        max_grad_norm: gradients are clipped to this norm.
        max_length: longest example in tokens (prompt, completion and end token). If null, 1024 or the model's limit,
            whichever is smaller.
        overlong: what to do with a longer example: `drop` it (the run's report counts them), `truncate` it at its end,
            or `split` it, which is for plain text (`data.format: text`).
        completion_only_loss: compute the loss on the completion only, not on the prompt.
        packing: fill sequences of `max_length` tokens with several examples each, which do not attend to each other;
            `batch_size` then counts sequences. Less padding for short examples.
        group_by_length: batch examples of similar length: less padding, a different order of the same examples.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        seed: seed of the adapter's initialisation, dropout and the order of the examples.
        data_seed: seed of the order of the examples. Equal to `seed` if null.
        save_every: steps between checkpoints.
        keep_checkpoints: number of checkpoints to keep.
        log_every: steps between logged values.
        early_stopping_patience: end the run after this many evaluations in a row (`eval.every`) without a new best
            value. Never if null.
        load_best_model_at_end: keep the checkpoint of the best evaluation and load it at the end: the result is of it.
        metric_for_best_model: what is best, the lowest validation `loss` or the highest `accuracy`. If null, the
            accuracy if `eval` has questions, else the loss.
        report_to: experiment trackers, one or a list of those of transformers' `report_to`, such as `tensorboard`,
            `trackio` or `wandb`. None if null.
        device: `auto` is the GPU if there is one, else the CPU.
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
    overlong: Literal["drop", "truncate", "split"] = "drop"
    completion_only_loss: bool = True
    packing: bool = False
    group_by_length: bool = False
    gradient_checkpointing: bool = False
    seed: int = Field(default=42, ge=0, lt=2**32)
    data_seed: int | None = Field(default=None, ge=0, lt=2**32)
    save_every: int = Field(default=100, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=1, ge=1)
    early_stopping_patience: int | None = Field(default=None, ge=1)
    load_best_model_at_end: bool = False
    metric_for_best_model: Literal["loss", "accuracy"] | None = None
    report_to: str | list[str] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _one_length(self) -> TrainSettings:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"set steps or epochs, not both (got steps: {self.steps}, epochs: {self.epochs}); to replace one on "
                "the command line, set the other to null, as in train.epochs=null"
            )
        if self.packing and self.group_by_length:
            raise ValueError("set packing or group_by_length, not both: packed sequences have one length")
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise ValueError(f"warmup must be a fraction below 1 or an integer number of steps, got {self.warmup}")
        return self

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names of `report_to`, each once."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        return tuple(dict.fromkeys(name for name in names if name != "none"))


class RunSettings(Settings):
    """A run: everything that determines its result, and its output folder.

    Attributes:
        model: the base model, a name or a section.
        method: the fine-tuning method, a name or a section.
        data: the training data.
        train: the training recipe.
        eval: the evaluation before and after training, and with `every` during it. If null, only the loss on
            `data.validation` is computed, before and after training.
        output: folder of the run.
    """

    model: ModelSettings
    method: SerializeAsAny[MethodSettings]
    data: DataSettings
    train: TrainSettings = TrainSettings()
    eval: EvalSettings | None = None
    output: UserPath

    @model_validator(mode="after")
    def _learning_rate(self) -> RunSettings:
        """Use the method's learning rate where none is set."""
        if "learning_rate" in self.train.model_fields_set:
            return self
        rate = METHODS[self.method.name].learning_rate
        return self.model_copy(update={"train": self.train.model_copy(update={"learning_rate": rate})})

    @model_validator(mode="after")
    def _own_questions(self) -> RunSettings:
        """Read `eval.file` as the training data is read; with the metric `loss`, it is the validation data."""
        asked, data = self.eval, self.data
        if asked is None or asked.file is None:
            return self
        if asked.metric == "loss":
            if data.train is None or data.validation is not None:
                raise ValueError("'eval.metric' is loss: set data.validation in place of eval.file")
            fields = type(asked).model_fields.items()
            idle = [name for name, field in fields if getattr(asked, name) != field.default]
            other = [name for name in idle if name not in ("file", "metric", "every")]
            if other:
                raise ValueError(
                    f"'eval.{other[0]}' has no meaning with metric loss: the file is read as data.train is"
                )
            changed = {"file": None, "metric": None}
            return self.model_copy(
                update={
                    "data": data.model_copy(update={"validation": asked.file}),
                    "eval": asked.model_copy(update=changed),
                }
            )
        if data.name is not None:
            return self
        every = ("prompt", "completion", "column", "chat_template")
        keys = every[:1] if asked.metric == "choice" else every
        same = {key: getattr(data, key) for key in keys if getattr(asked, key) is None}
        return self.model_copy(update={"eval": asked.model_copy(update=same)})

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> RunSettings:
        if self.eval is not None and not self.eval.has_tasks and self.data.validation is None:
            raise ValueError(
                "'eval' has no questions, and there is no validation data: set eval.suite, or data.validation (a "
                "fraction such as 0.05, or a file) for the validation loss, or remove 'eval'"
            )
        return self

    @model_validator(mode="after")
    def _best_model(self) -> RunSettings:
        train = self.train
        asked = [key for key in ("early_stopping_patience", "load_best_model_at_end") if getattr(train, key)]
        if not asked:
            if train.metric_for_best_model is not None:
                raise ValueError(
                    "'train.metric_for_best_model' has no meaning alone: set train.early_stopping_patience or "
                    "train.load_best_model_at_end as well"
                )
            return self
        if self.eval is None or self.eval.every is None:
            raise ValueError(
                f"'train.{asked[0]}' needs evaluations during training: set eval.every, for instance to 50"
            )
        if self.metric_for_best_model == "loss" and self.data.validation is None:
            raise ValueError(
                "'train.metric_for_best_model' is loss, and there is no validation data: set data.validation"
            )
        if self.metric_for_best_model == "accuracy" and not self.eval.has_tasks:
            raise ValueError("'train.metric_for_best_model' is accuracy, and 'eval' has no questions: set eval.suite")
        return self

    @property
    def metric_for_best_model(self) -> Literal["loss", "accuracy"]:
        """The metric of the best evaluation, where `train` does not set it: the accuracy if there are questions."""
        if self.train.metric_for_best_model is not None:
            return self.train.metric_for_best_model
        return "accuracy" if self.eval is not None and self.eval.has_tasks else "loss"

    def resolved(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON, with every default."""
        return self.model_dump(mode="json")
