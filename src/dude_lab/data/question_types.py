"""The two types of question and their prompts, which training and evaluation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dude_peft.errors import quote

from .templates import unusable

LETTERS = "ABCDEFGHIJ"

Protocol = Literal["cloze", "letter"]
"""How a multiple-choice question is asked: `cloze` scores the text of each choice, `letter` its letter."""


def _check(*texts: str) -> None:
    """Reject text that cannot be written to a file."""
    for text in texts:
        if fault := unusable(text):
            raise ValueError(f"{quote(text)} has {fault}")


@dataclass(frozen=True)
class Problem:
    """A question with a free-text answer.

    Attributes:
        id: identifier of the record in its data set, or its number.
        prompt: the text before the answer, without trailing space.
        answer: the solution, without leading space.
    """

    id: str
    prompt: str
    answer: str

    def __post_init__(self) -> None:
        _check(self.prompt, self.answer)

    @property
    def pair(self) -> tuple[str, str]:
        """Prompt and completion for training."""
        return self.prompt, " " + self.answer


@dataclass(frozen=True)
class Question:
    """A multiple-choice question, independent of the protocol.

    Attributes:
        id: identifier of the record in its data set, or its number.
        cloze: the text that each choice completes.
        stem: the text above the list of choices under the letter protocol.
        choices: the text of each choice.
        gold: index of the correct one in `choices`.
        subject: subject of MMLU.
        group: the subject's group.
        prefixes: for a blank in a sentence, the text up to and including each choice, followed by `suffix`.
        suffix: the text after the blank.
        labels: answers of the letter protocol. A, B, C, ... if empty.
    """

    id: str
    cloze: str
    stem: str
    choices: tuple[str, ...]
    gold: int
    subject: str | None = None
    group: str | None = None
    prefixes: tuple[str, ...] = ()
    suffix: str = ""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.gold < len(self.choices):
            raise ValueError(f"the answer is choice {self.gold + 1} of {len(self.choices)}")
        _check(self.stem, *self.choices)

    def ask(self, protocol: Protocol) -> Asked:
        """Return the contexts and continuations under a protocol."""
        if protocol == "letter":
            labels = self.labels or tuple(LETTERS[: len(self.choices)])
            mark = "{} {}" if self.labels else "{}. {}"
            listed = "\n".join(mark.format(label, choice) for label, choice in zip(labels, self.choices, strict=True))
            return Asked(self, (f"{self.stem}\n{listed}\nAnswer:",), labels)
        if self.prefixes:
            return Asked(self, self.prefixes, (self.suffix,))
        return Asked(self, (self.cloze,), self.choices)


def subject_heading(question: Question, protocol: Protocol) -> str:
    """Return the text above the questions of an MMLU subject under the letter protocol; empty otherwise."""
    if not question.subject or protocol != "letter":
        return ""
    return f"The following are multiple choice questions (with answers) about {question.subject.replace('_', ' ')}.\n\n"


@dataclass(frozen=True)
class Asked:
    """A question under a protocol: the likelihoods of `" " + continuation` after its context are compared.

    Attributes:
        question: the question.
        contexts: one for all choices; for a blank in a sentence, one for each.
        continuations: one for each choice; for a blank in a sentence, one for all.
    """

    question: Question
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]

    @property
    def pair(self) -> tuple[str, str]:
        """Prompt and completion for training: the same text with the correct answer."""
        gold = self.question.gold
        context = self.contexts[gold if len(self.contexts) > 1 else 0]
        return context, " " + self.continuations[gold if len(self.continuations) > 1 else 0]
