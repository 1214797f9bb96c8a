"""The `eval:` section of a run's YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from dude_peft.errors import did_you_mean, quote

from ..data.catalogue import SETS, suites
from ..data.question_types import Protocol
from ..settings import Settings

BUILT_IN = "lm_eval:"
"""Prefix of a task of lm-evaluation-harness itself, such as `lm_eval:lambada_openai`."""

SOURCES = ("suite", "tasks", "file", "lm_eval")  # keys that name questions
OF_FILES = ("metric", "prompt", "completion", "column", "chat_template")
LARGEST = 2**31 - 1  # value of a count


class EvalSettings(Settings):
    """The evaluation: questions, by one of `suite`, `tasks`, `file` and `lm_eval`; else the loss on `data.validation`.

    Attributes:
        suite: a named data set or a group of them, or `lm_eval:NAME` for a task of lm-evaluation-harness.
        tasks: a list of such names.
        file: a file of your own questions, in the formats of `data.train`.
        metric: of `file`: `exact_match` (the generated answer is the completion, but for white space around it),
            `contains` (the completion is in it), `choice` (the most likely of the record's `choices` is its `answer`)
            or `loss` (the file is the validation data). `exact_match` if null.
        lm_eval: YAML file of a task of lm-evaluation-harness.
        prompt: of `file`: column or template of the prompts. As in `data` if null.
        completion: of `file`: column or template of the answers. As in `data` if null.
        column: of `file`: column of the messages. As in `data` if null.
        chat_template: of `file`: whether pairs go through the model's chat template. As in `data` if null.
        every: evaluate every `every` optimizer steps and at the end. Only at the end if null.
        limit: use only the first `limit` questions of each task (of each subject of MMLU). All if null.
        skip: leave out the first `skip` questions of each named data set (of each subject of MMLU), for instance those
            that a learning rate was chosen on; `limit` counts from there.
        text: a text whose perplexity is measured beside the questions, to see what is forgotten: `wikitext2` (the test
            split), or a file.
        text_limit: use only the first `text_limit` characters of the text. All if null.
        limit_before: questions of the evaluation before the first step, divided among the tasks. As many as later if
            null.
        batch_size: sequences in one forward.
        num_fewshot: few-shot examples before each question. 0 if null.
        max_new_tokens: longest generated answer in tokens.
        protocol: `cloze` scores the text of each choice, `letter` its letter. The data set's default if null.
        root: folder with the raw files. If null, the environment variable DUDE_DATA_DIR, then the hub.
        split: split to evaluate on. The data set's evaluation split if null.
        seed: seed of the choice of few-shot examples.
    """

    suite: str | None = None
    tasks: list[str] | None = None
    file: str | None = None
    metric: Literal["exact_match", "contains", "choice", "loss"] | None = None
    lm_eval: str | None = None
    prompt: str | None = None
    completion: str | None = None
    column: str | None = None
    chat_template: bool | None = None
    every: int | None = Field(default=None, ge=1, le=LARGEST)
    limit: int | None = Field(default=None, ge=1, le=LARGEST)
    skip: int | None = Field(default=None, ge=1, le=LARGEST)
    text: str | None = Field(default=None, min_length=1)
    text_limit: int | None = Field(default=None, ge=1, le=LARGEST)
    limit_before: int | None = Field(default=50, ge=1, le=LARGEST)
    batch_size: int = Field(default=32, ge=1, le=LARGEST)
    num_fewshot: int | None = Field(default=None, ge=0, le=LARGEST)
    max_new_tokens: int = Field(default=256, ge=1, le=LARGEST)
    protocol: Protocol | None = None
    root: str | None = None
    split: str | None = None
    seed: int = Field(default=42, ge=0)

    @field_validator("suite", "tasks")
    @classmethod
    def _known(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value is None:
            return None
        if not value:
            raise ValueError("name at least one suite")
        known = suites()
        for name in [value] if isinstance(value, str) else value:
            if name.startswith(BUILT_IN) and len(name) > len(BUILT_IN):
                continue
            if name not in known:
                hint = did_you_mean(name, known) or f" Known: {', '.join(known)}."
                raise ValueError(
                    f"no suite is called {quote(name)}.{hint} Write a task of lm-evaluation-harness as '{BUILT_IN}NAME'"
                )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> EvalSettings:
        if len(given := [key for key in SOURCES if getattr(self, key) is not None]) > 1:
            raise ValueError(f"set '{given[0]}' or '{given[1]}', not both")
        if self.file is None:
            for key in OF_FILES:
                if getattr(self, key) is not None:
                    raise ValueError(f"'{key}' has no meaning without 'file'")
        for key in ("split", "protocol", "root", "num_fewshot", "skip"):
            if (self.file or self.lm_eval) and getattr(self, key) is not None and (key != "num_fewshot" or self.file):
                raise ValueError(f"'{key}' has no meaning with '{'file' if self.file else 'lm_eval'}'")
        if not self.has_tasks:
            for name, field in type(self).model_fields.items():
                if name != "every" and getattr(self, name) != field.default:
                    raise ValueError(
                        f"'{name}' has no meaning without questions: set 'suite', 'file' or 'lm_eval', or remove it"
                    )
        if self.text_limit is not None and self.text is None:
            raise ValueError("'text_limit' has no meaning without 'text'")
        if (
            self.root is not None
            and self.text is None
            and not any(name in SETS and not SETS[name].embedded for name in self.names)
        ):
            raise ValueError(
                f"'root' has no meaning with {', '.join(self.names)}: the questions ship with the package, or "
                "lm-evaluation-harness reads them"
            )
        return self

    @property
    def has_tasks(self) -> bool:
        """Whether questions are asked, and not only the validation loss is computed."""
        return any(getattr(self, key) is not None for key in SOURCES)

    def before_training(self) -> EvalSettings:
        """Return the settings of the evaluation before the first step, which has fewer questions."""
        if self.limit_before is None:
            return self
        each = max(1, self.limit_before // len(self.names))
        return self.model_copy(update={"limit": each if self.limit is None else min(each, self.limit)})

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets and lm-evaluation-harness tasks to evaluate, each once; a file without its suffixes."""
        if (path := self.file or self.lm_eval) is not None:
            return (Path(path).name.partition(".")[0] or "file",)
        chosen = [self.suite] if self.suite is not None else self.tasks or []
        known = suites()
        return tuple(dict.fromkeys(one for name in chosen for one in known.get(name, (name,))))
