"""The `eval:` section of a run's YAML."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from dude_peft.errors import did_you_mean, quote

from ..data.catalogue import SETS, suites
from ..data.question_types import Protocol
from ..settings import Settings

BUILT_IN = "lm_eval:"
"""Prefix of a task of lm-evaluation-harness itself, such as `lm_eval:lambada_openai`."""

LARGEST = 2**31 - 1  # value of a count


class EvalSettings(Settings):
    """The evaluation: questions, by `suite` or `tasks`; with neither, the loss on `data.validation` alone.

    Attributes:
        suite: a named data set or a group of them, or `lm_eval:NAME` for a task of lm-evaluation-harness.
        tasks: a list of such names.
        every: evaluate every `every` optimizer steps and at the end. Only at the end if null.
        limit: use only the first `limit` questions of each task (of each subject of MMLU). All if null.
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
    every: int | None = Field(default=None, ge=1, le=LARGEST)
    limit: int | None = Field(default=None, ge=1, le=LARGEST)
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
        if self.suite is not None and self.tasks is not None:
            raise ValueError("set 'suite' or 'tasks', not both")
        if not self.has_tasks:
            for name, field in type(self).model_fields.items():
                if name != "every" and getattr(self, name) != field.default:
                    raise ValueError(f"'{name}' has no meaning without questions: set 'suite' or 'tasks', or remove it")
        if self.root is not None and not any(name in SETS and not SETS[name].embedded for name in self.names):
            raise ValueError(
                f"'root' has no meaning with {', '.join(self.names)}: the questions ship with the package, or "
                "lm-evaluation-harness reads them"
            )
        return self

    @property
    def has_tasks(self) -> bool:
        """Whether questions are asked, and not only the validation loss is computed."""
        return self.suite is not None or self.tasks is not None

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets and lm-evaluation-harness tasks to evaluate, each once, in the order given."""
        chosen = [self.suite] if self.suite is not None else self.tasks or []
        known = suites()
        return tuple(dict.fromkeys(one for name in chosen for one in known.get(name, (name,))))
