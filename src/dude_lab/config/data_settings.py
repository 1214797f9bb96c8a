"""The `data:` section of a run's YAML."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from dude_peft.errors import did_you_mean

from ..data.catalogue import SETS
from ..data.formats import Format
from ..data.question_types import Protocol
from ..settings import Settings


class DataSettings(Settings):
    """The training data. Set exactly one of `name`, `train` and `hub`.

    Attributes:
        name: a named data set such as `gsm8k` or `mini_csqa`. Training and evaluation use the same prompts.
        train: one or several files: .jsonl, .json, .csv or .parquet; all but .parquet also compressed as .gz.
        hub: a data set on the Hugging Face hub, `owner/name`.
        root: folder with the raw files of a named data set. If null, the environment variable DUDE_DATA_DIR, then the
            hub.
        subset: configuration of a hub data set that has several.
        split: split to train on. If null, the named data set's training split, or `train`.
        protocol: how a multiple-choice question is asked: `cloze` completes it with the text of the answer, `letter`
            with its letter. The data set's default if null.
        calculator_marks: GSM8K's `<<48/2=24>>`: `keep` (as lm-evaluation-harness does; the default) or `strip`.
        format: what the records are: `messages` (chats of OpenAI's form), `sharegpt` (chats of `from` and `value`),
            `prompt_completion`, `alpaca` (`instruction`, `input`, `output`) or `text` (every token is trained on).
            Recognised from the columns if null.
        column: column of the messages or of the text. `messages`, `conversations` or `text` if null.
        chat_template: with prompt and completion, or `alpaca`: whether to train through the model's chat template, as a
            user's and an assistant's turn. If null, the texts are trained as they are, and `dude validate` shows both.
            Chats always go through it.
        prompt: a column, or a template such as `"Question: {question}\\nAnswer:"`. Column `prompt` if null.
        completion: likewise, for the text to train on. Column `completion` if null.
        validation: fraction of the training records to hold out; or, with `train`, a file; or, with `name` and `hub`,
            a split.
        limit: use only the first `limit` training records.
        sample: use this many training records drawn at random, in their original order; applied after `validation` and
            before `limit`.
        seed: seed of the validation fraction and of the sample.
    """

    name: str | None = None
    train: str | list[str] | None = None
    hub: str | None = None
    root: str | None = None
    subset: str | None = None
    split: str | None = None
    protocol: Protocol | None = None
    calculator_marks: Literal["keep", "strip"] | None = None
    format: Format | None = None
    column: str | None = None
    chat_template: bool | None = None
    prompt: str | None = None
    completion: str | None = None
    validation: float | str | None = None
    limit: int | None = Field(default=None, ge=1)
    sample: int | None = Field(default=None, ge=1)
    seed: int = Field(default=42, ge=0)

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str | None) -> str | None:
        if name is not None and name not in SETS:
            hint = did_you_mean(name, SETS) or f" Known: {', '.join(SETS)}."
            raise ValueError(f"no data set has this name.{hint} Put your own file under 'train'")
        return name

    @field_validator("train", mode="before")
    @classmethod
    def _some_file(cls, train: object) -> object:
        names = [train] if isinstance(train, str) else train
        if isinstance(names, list) and (not names or any(isinstance(one, str) and not one.strip() for one in names)):
            raise ValueError("name at least one file")
        return train

    @field_validator("validation", mode="before")
    @classmethod
    def _fraction_or_name(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("give a fraction such as 0.05, a file, or the name of a split")
        if isinstance(value, (int, float)) and not 0 < value < 1:  # also false for NaN
            raise ValueError("a fraction must be above 0 and below 1")
        if isinstance(value, str) and not value.strip():
            raise ValueError("give a fraction such as 0.05, a file, or the name of a split")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> DataSettings:
        sources = [key for key in ("name", "train", "hub") if getattr(self, key) is not None]
        if len(sources) != 1:
            found = " and ".join(f"'{key}'" for key in sources) or "none"
            raise ValueError(f"set exactly one of 'name', 'train' and 'hub'; got {found}")
        allowed = _ALLOWED[sources[0]]
        for key, remedy in _ONLY_WITH.items():
            if getattr(self, key) is not None and key not in allowed:
                raise ValueError(f"'{key}' has no meaning with '{sources[0]}'. {remedy}")
        self._check_format()
        if self.name is not None:
            named = SETS[self.name]
            if self.root is not None and named.embedded:
                raise ValueError(f"'root' has no meaning with '{self.name}': its records ship with the package")
            if self.protocol is not None and named.free_text:
                raise ValueError(f"'protocol' is for multiple choice; '{self.name}' is answered with free text")
            if self.calculator_marks is not None and not named.has_calculator_marks:
                raise ValueError(f"'calculator_marks' is for gsm8k; '{self.name}' has none")
        return self

    def _check_format(self) -> None:
        pair = [key for key in ("prompt", "completion") if getattr(self, key) is not None]
        if pair and self.format not in (None, "prompt_completion"):
            raise ValueError(f"'{pair[0]}' has no meaning with format '{self.format}'. Remove one of the two")
        if self.column is not None and (pair or self.format in ("prompt_completion", "alpaca")):
            raise ValueError("'column' names the messages or the text; for pairs, set 'prompt' and 'completion'")
        if self.format in ("messages", "sharegpt") and self.chat_template is False:
            raise ValueError(
                f"'chat_template' is false, and records of the format '{self.format}' need a chat template"
            )
        if self.format == "text" and self.chat_template:
            raise ValueError("'chat_template' is true, and plain text has no turns. Set 'prompt' and 'completion'")


_OWN = {"format", "column", "chat_template", "prompt", "completion"}
_ALLOWED = {
    "name": {"root", "split", "protocol", "calculator_marks"},
    "train": _OWN,
    "hub": {"subset", "split", *_OWN},
}
_ONLY_WITH = {
    "root": "It is the folder with the raw files of a named data set.",
    "subset": "It is a configuration of a hub data set.",
    "split": "A file has no splits; name another file.",
    "protocol": "It is for named multiple-choice data sets.",
    "calculator_marks": "It is for the named data set gsm8k.",
    "format": "A named data set has its own form; to use another, put its file under 'train'.",
    "column": "A named data set has its own columns; to use others, put its file under 'train'.",
    "chat_template": "A named data set is trained and evaluated with the same prompts, without a chat template.",
    "prompt": "A named data set has its own prompts; to use others, put its file under 'train'.",
    "completion": "A named data set has its own prompts; to use others, put its file under 'train'.",
}
