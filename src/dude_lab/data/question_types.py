"""The two kinds of question, and the text put before a model for each: one definition for training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dude_peft.errors import quote

from .templates import unusable

LETTERS = "ABCDEFGHIJ"

Protocol = Literal["cloze", "letter"]
"""How a multiple-choice question is asked: `cloze` scores the text of each choice, `letter` its letter."""


def _check(*texts: str) -> None:
    """Refuse what no file of text can hold."""
    for text in texts:
        if fault := unusable(text):
            raise ValueError(f"{quote(text)} holds {fault}")


@dataclass(frozen=True)
class Problem:
    """A question that is answered with free text.

    Attributes:
        id: the set's own identifier, or the record's number.
        prompt: the text before the answer, without a space at its end.
        answer: the whole worked answer, without a space at its start.
    """

    id: str
    prompt: str
    answer: str

    def __post_init__(self) -> None:
        _check(self.prompt, self.answer)

    @property
    def pair(self) -> tuple[str, str]:
        """Prompt and completion to learn from."""
        return self.prompt, " " + self.answer


@dataclass(frozen=True)
class Question:
    """A multiple-choice question, before it is decided how it is asked.

    Attributes:
        id: the set's own identifier, or the record's number.
        cloze: the text which each choice completes.
        asked: the text above the list of choices, where the model answers with a letter.
        choices: the text of each choice, in the order of the record.
        gold: position of the right one in `choices`.
        subject: MMLU's subject.
        group: the subject's group.
        prefixes: for a blank within a sentence, the text up to and including each choice; `suffix` follows all.
        suffix: what follows the blank.
        labels: the answers that the letter protocol scores, when they are not plain letters.
    """

    id: str
    cloze: str
    asked: str
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
        _check(self.asked, *self.choices)

    def ask(self, protocol: Protocol) -> Asked:
        """The question as it is put: which contexts, which continuations."""
        if protocol == "letter":
            labels = self.labels or tuple(LETTERS[: len(self.choices)])
            mark = "{} {}" if self.labels else "{}. {}"
            listed = "\n".join(mark.format(label, choice) for label, choice in zip(labels, self.choices, strict=True))
            return Asked(self, (f"{self.asked}\n{listed}\nAnswer:",), labels)
        if self.prefixes:
            return Asked(self, self.prefixes, (self.suffix,))
        return Asked(self, (self.cloze,), self.choices)


def subject_heading(question: Question, protocol: Protocol) -> str:
    """What stands once above all the questions of an MMLU subject, when letters are asked for; empty otherwise."""
    if not question.subject or protocol != "letter":
        return ""
    return f"The following are multiple choice questions (with answers) about {question.subject.replace('_', ' ')}.\n\n"


@dataclass(frozen=True)
class Asked:
    """A question as it is put to a model: the likelihood of `" " + continuation` after its context is compared.

    Attributes:
        question: what is asked.
        contexts: one for all choices, or, for a blank within a sentence, one for each.
        continuations: one for each choice, or, for a blank within a sentence, one for all.
    """

    question: Question
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]

    @property
    def pair(self) -> tuple[str, str]:
        """Prompt and completion to learn from: the same text with the right answer."""
        gold = self.question.gold
        context = self.contexts[gold if len(self.contexts) > 1 else 0]
        return context, " " + self.continuations[gold if len(self.continuations) > 1 else 0]
